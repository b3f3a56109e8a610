// Rotary position embedding: from the configuration to the inverse frequencies, in the arithmetic
// of transformers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"

namespace tandem {

struct RopeParameters {
  enum class Scaling : std::uint8_t { kDefault, kLinear, kLlama3 };
  Scaling scaling = Scaling::kDefault;
  double theta = 10000;
  double factor = 1;  // linear and llama3: how much longer the context is than in training
  double low_freq_factor =
      1;  // llama3: wavelengths above original_context / low are divided by factor
  double high_freq_factor =
      4;  // llama3: wavelengths below original_context / high stay; blended between
  double original_context = 0;  // llama3: tokens of context in training
};

// Reads "rope_parameters" (transformers 5) or "rope_theta" with "rope_scaling" (before);
// `context_length` stands for the original context where the configuration does not name it.
// kUnsupported for other kinds of scaling.
RopeParameters read_rope_parameters(const JsonObject& config, std::int64_t context_length);

// [head_dim / 2] in radians per token, computed in float32 with the operations of transformers in
// their order.
std::vector<float> inverse_frequencies(const RopeParameters& parameters, std::int64_t head_dim);

}  // namespace tandem
