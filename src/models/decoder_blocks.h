// The decoder that the families share: blocks of norm, grouped-query attention and a gated MLP,
// with each family's differences as settings.
#pragma once

#include <cstdint>
#include <vector>

#include "models/model.h"
#include "models/rope.h"

namespace tandem {

struct Family;

enum class Activation : std::uint8_t { kSilu, kGelu };

struct DecoderConfig {
  ModelInfo info;
  Activation activation = Activation::kSilu;
  // Epsilon of every norm.
  float epsilon = 0;
  // Added to the weight of every norm (Gemma: 1).
  float norm_offset = 0;
  // On q_proj, k_proj and v_proj.
  bool qkv_bias = false;
  // On o_proj.
  bool output_bias = false;
  // On gate_proj, up_proj and down_proj.
  bool mlp_bias = false;
  // q_norm and k_norm: a norm of each head before the rotary embedding.
  bool qk_norm = false;
  // Additional norms after attention and MLP (Gemma 2).
  bool post_norms = false;
  // Factor on the embeddings.
  float embedding_scale = 1;
  // Scale of q · k; 0: 1 / sqrt(head_dim).
  float attention_scale = 0;
  // Soft cap of the attention scores; 0: none.
  float attention_softcap = 0;
  // Soft cap of the logits; 0: none.
  float logit_softcap = 0;
  Rope rope;
  // Per layer: whether q and k get a rotary embedding.
  std::vector<bool> rotates;
  // Per layer: sliding window in tokens; 0: none.
  std::vector<std::int64_t> windows;
};

// Reads the keys that the families share: no biases, extra norms or windows, rotary embeddings in
// all layers. Throws kUnsupported if hidden_act is neither SiLU nor GELU with the tanh
// approximation.
DecoderConfig read_decoder_config(const JsonObject& config, const Family& family);

// Embedding, blocks, SelectRows, final norm, head, with Llama's tensor names.
Graph build_decoder(const DecoderConfig& config, const WeightSource& weights);

}  // namespace tandem
