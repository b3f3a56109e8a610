// Rotary position embedding: from the configuration to inverse frequencies, with the arithmetic of
// transformers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "graph/graph.h"

namespace tandem {

struct RopeParameters {
  enum class Scaling : std::uint8_t {
    kDefault,
    kLinear,
    // NTK: a base that grows with the sequence length.
    kDynamic,
    // Low frequencies are interpolated, high ones kept, with a ramp in between; cos and sin are
    // scaled.
    kYarn,
    // A factor for each pair, in two sets: up to the original context and beyond.
    kLongRope,
    kLlama3,
  };
  Scaling scaling = Scaling::kDefault;
  double theta = 10000;
  // Fraction of each head that is rotated.
  double partial = 1;
  // Ratio of the context length to that in training.
  double factor = 1;
  // Context length in training, in tokens.
  double original_context = 0;
  // llama3: frequencies with wavelengths above original_context / low are divided by factor, those
  // below original_context / high are kept; blended in between.
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  // yarn: pairs that make more than beta_fast rotations within the original context are kept, those
  // that make fewer than beta_slow are divided by factor.
  double beta_fast = 32;
  double beta_slow = 1;
  // Round the ends of the ramp to whole pairs.
  bool truncate = true;
  // yarn, longrope: factor on cos and sin.
  double attention_factor = 1;
  // Divisors of the frequencies; for longrope those within the original context.
  std::vector<float> pair_factors;
  // longrope: divisors beyond the original context.
  std::vector<float> long_pair_factors;
};

// Reads "rope_parameters" (transformers 5) or "rope_theta" with "rope_scaling" (earlier).
// `context_length` is the default for the original context, `theta` for the base. Throws
// kUnsupported for other kinds of scaling.
RopeParameters read_rope_parameters(const JsonObject& config, std::int64_t context_length,
                                    double theta);

// The model's context length in tokens: `context_length` (max_position_embeddings), extended if the
// kind of scaling leaves that key at its training value (linear, dynamic, yarn). Dynamic scaling
// goes on beyond it (ModelInfo::open_context).
std::int64_t scaled_context(const RopeParameters& parameters, std::int64_t context_length);

// The parameters of a RotaryEmbedding.
struct Rope {
  // [rotary_dim / 2], in radians per token.
  std::vector<float> inverse_frequencies;
  float attention_factor = 1;
  RotaryExtension extension;
};

// Computed in float32 with the operations of transformers, in their order. `where` names the
// configuration in errors: an odd rotary dim, or the wrong number of factors.
Rope make_rope(const RopeParameters& parameters, std::int64_t head_dim, const std::string& where);

}  // namespace tandem
