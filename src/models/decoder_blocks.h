// The decoder that most families share: pre-norm blocks of grouped-query attention and a gated SiLU
// MLP.
#pragma once

#include <cstdint>
#include <vector>

#include "models/model.h"

namespace tandem {

struct DecoderConfig {
  ModelInfo info;
  float epsilon = 0;                       // of every norm
  bool qkv_bias = false;                   // q_proj, k_proj, v_proj
  bool output_bias = false;                // o_proj
  bool mlp_bias = false;                   // gate_proj, up_proj, down_proj
  std::vector<float> inverse_frequencies;  // [head_dim / 2]
  std::vector<std::int64_t> windows;       // per layer: sliding window in tokens, 0 for none
};

// The keys that the families share; biases off and no windows. kUnsupported if hidden_act is not
// SiLU.
DecoderConfig read_decoder_config(const JsonObject& config);

// Embedding, blocks, SelectRows, final norm, head, with the tensor names of transformers.
Graph build_decoder(const DecoderConfig& config, const WeightSource& weights);

}  // namespace tandem
