// Small decoders of every family with random weights, in float or in codes.
#pragma once

#include <cstdint>
#include <string>

#include "graph/graph.h"
#include "graph/model_info.h"

namespace tandem::testing {

struct FamilyModel {
  ModelInfo info;
  Graph graph;
};

// Of the family's fixture in tests/models, with sizes that groups of 32 divide.
FamilyModel make_family(const std::string& fixture, std::int64_t head_dim = 16);

// How make_codes() stores a Linear.
struct CodeForm {
  int bits = 4;
  bool is_signed = false;
  bool has_zero_points = true;
  std::int64_t group = 32;
};
GroupCodes make_codes(const Weight& weight, const CodeForm& form);

// A copy whose Linears are codes. Groups differ from layer to layer where `per_layer` says so, and
// the head has some of its own.
Graph with_codes(const Graph& graph, const CodeForm& form, bool per_layer = false);

// A copy whose Linears of decoder blocks multiply int8 by int8, with static scales for their inputs. With
// shadows, what the codes clip is added.
Graph with_int8(const Graph& graph, bool has_shadows = false);

}  // namespace tandem::testing
