// The decoder that the families share: blocks of norm, grouped-query attention and a gated MLP,
// with what each family has of its own as settings.
#pragma once

#include <cstdint>
#include <vector>

#include "models/model.h"
#include "models/rope.h"

namespace tandem {

struct FamilyDefaults;

enum class Activation : std::uint8_t { kSilu, kGelu };

struct DecoderConfig {
  ModelInfo info;
  Activation activation = Activation::kSilu;
  float epsilon = 0;            // of every norm
  float norm_offset = 0;        // added to the weight of every norm (Gemma: 1)
  bool qkv_bias = false;        // q_proj, k_proj, v_proj
  bool output_bias = false;     // o_proj
  bool mlp_bias = false;        // gate_proj, up_proj, down_proj
  bool qk_norm = false;         // q_norm, k_norm: of every head, before it is turned
  bool post_norms = false;      // norms of what attention and MLP give, too (Gemma 2)
  float embedding_scale = 1;    // of the rows of the table
  float attention_scale = 0;    // of q · k; 0: 1 / sqrt(head_dim)
  float attention_softcap = 0;  // of the scores; 0: none
  float logit_softcap = 0;      // of the logits; 0: none
  Rope rope;
  std::vector<bool> turned;           // per layer: whether positions turn q and k
  std::vector<std::int64_t> windows;  // per layer: sliding window in tokens, 0 for none
};

// The keys that the families share: no biases, extra norms or windows, all layers turned.
// kUnsupported if hidden_act is neither SiLU nor the approximation of GELU with tanh.
DecoderConfig read_decoder_config(const JsonObject& config, const FamilyDefaults& defaults);

// Embedding, blocks, SelectRows, final norm, head, with the tensor names of Llama.
Graph build_decoder(const DecoderConfig& config, const WeightSource& weights);

}  // namespace tandem
