// Rotary position embedding: from the configuration to the inverse frequencies, in the arithmetic
// of transformers.
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
    kDynamic,   // NTK: a base that grows with the sequence
    kYarn,      // slow pairs stretched, fast ones kept, a ramp between; cos and sin scaled
    kLongRope,  // a factor for each pair, two sets of them: up to the original context and beyond
    kLlama3,
  };
  Scaling scaling = Scaling::kDefault;
  double theta = 10000;
  double partial = 1;  // part of each head that turns
  double factor = 1;   // how much longer the context is than in training
  // Tokens of context in training.
  double original_context = 0;
  // llama3: wavelengths above original_context / low are divided by factor, those below
  // original_context / high stay; blended between.
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  // yarn: pairs that turn more than beta_fast times within the original context stay, those that
  // turn less than beta_slow times are divided by factor.
  double beta_fast = 32;
  double beta_slow = 1;
  bool truncate = true;                  // the ends of the ramp lie on whole pairs
  double attention_factor = 1;           // yarn, longrope: multiplies cos and sin
  std::vector<float> pair_factors;       // divide the frequencies: longrope's short ones
  std::vector<float> long_pair_factors;  // longrope: beyond the original context
};

// Reads "rope_parameters" (transformers 5) or "rope_theta" with "rope_scaling" (before);
// `context_length` stands for the original context where the configuration does not name it,
// `theta` for a base that it does not name. kUnsupported for other kinds of scaling.
RopeParameters read_rope_parameters(const JsonObject& config, std::int64_t context_length,
                                    double theta);

// Tokens that the model can read: `context_length` (max_position_embeddings), stretched where the
// kind of scaling leaves that key as it was in training (linear, dynamic, yarn).
std::int64_t scaled_context(const RopeParameters& parameters, std::int64_t context_length);

// What a RotaryEmbedding takes from the parameters.
struct Rope {
  std::vector<float> inverse_frequencies;  // [rotary_dim / 2] radians per token
  float attention_factor = 1;
  RotaryExtension extension;
};

// Computed in float32 with the operations of transformers in their order. `where` names the
// configuration in errors: a part of head_dim that is not even, factors of another number.
Rope make_rope(const RopeParameters& parameters, std::int64_t head_dim, const std::string& where);

}  // namespace tandem
