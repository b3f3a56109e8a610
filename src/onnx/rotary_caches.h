// Cosines and sines of all positions, as ONNX's rotary embeddings read them: [positions, pairs] each.
#pragma once

#include <cstdint>
#include <string>

#include "graph/graph.h"
#include "onnx/model_writer.h"

namespace tandem {

// How the two sets are told apart where sequences beyond the original context rotate at other
// frequencies.
struct CacheChoice {
  // An If compares the total length. Without: one set of rows is behind the other, and positions are
  // moved to the second.
  bool has_if = true;
  // The value that holds the total length, INT64.
  std::string total_length;
  // The path of the nodes that compare.
  std::string nodes;
};

struct RotaryCaches {
  std::string cosines;
  std::string sines;
  // The input position_ids, moved where that is the choice.
  std::string positions = "position_ids";
};

// How many tokens these angles are right for: all of `context`, or as many as have the same frequencies
// where those change with every length (dynamic NTK).
std::int64_t rotary_context(const RotaryAnglesAttributes& angles, std::int64_t context) noexcept;

// Adds the caches for `context` tokens.
RotaryCaches add_rotary_caches(const RotaryAnglesAttributes& angles, std::int64_t context,
                               OnnxType type, const CacheChoice& choice, ModelWriter& writer);

}  // namespace tandem
