// ChatGLM3-6B: Llama's blocks under different names, with fused q, k, v and fused gate, up, biases
// on q, k and v, and half of each head rotated in pairs of adjacent elements.
#include <array>
#include <utility>

#include "base/error.h"
#include "models/families.h"
#include "models/renamed_weights.h"

namespace tandem {
namespace {

// Fraction of each head.
constexpr double kRotatedPart = 0.5;

void require(const JsonObject& config, const char* key, bool expected) {
  if (config.get_bool_or(key, expected) != expected)
    fail(ErrorCode::kUnsupported, "[models] {}: {}: expected {}", config.where(), key, expected);
}

Json rename_chatglm_keys(const JsonObject& config) {
  require(config, "multi_query_attention", true);
  require(config, "add_bias_linear", false);
  require(config, "rmsnorm", true);
  require(config, "post_layer_norm", true);
  require(config, "apply_residual_connection_post_layernorm", false);
  Json renamed = config.json();
  constexpr std::array<std::pair<const char*, const char*>, 7> kKeys = {
      {{"num_layers", "num_hidden_layers"},
       {"ffn_hidden_size", "intermediate_size"},
       {"kv_channels", "head_dim"},
       {"multi_query_group_num", "num_key_value_heads"},
       {"padded_vocab_size", "vocab_size"},
       {"seq_length", "max_position_embeddings"},
       {"layernorm_epsilon", "rms_norm_eps"}}};
  for (const auto& [own, llama] : kKeys)
    if (config.has(own)) renamed[llama] = config.at(own);
  renamed["partial_rotary_factor"] = kRotatedPart;
  const double ratio = config.get_number_or("rope_ratio", 1);
  if (!(ratio > 0))
    fail(ErrorCode::kFormat, "[models] {}: rope_ratio: expected a number above 0, got {}",
         config.where(), ratio);
  renamed["rope_theta"] = 10000 * ratio;
  return renamed;
}

void configure_chatglm(const JsonObject& config, DecoderConfig& decoder) {
  decoder.qkv_bias = config.get_bool_or("add_qkv_bias", true);
}

// Rows [first, first + heads * head_dim), reordered so that the pairs (2i, 2i + 1) that are rotated
// together become (i, i + half), as in all other families: scores don't depend on the order within
// a head, as long as q and k agree.
std::vector<std::int64_t> halves_of_pairs(std::int64_t first, std::int64_t heads,
                                          std::int64_t head_dim) {
  const auto half = static_cast<std::int64_t>(static_cast<double>(head_dim) * kRotatedPart) / 2;
  std::vector<std::int64_t> rows;
  for (std::int64_t head = first; head < first + heads * head_dim; head += head_dim) {
    for (std::int64_t i = 0; i < half; ++i) rows.push_back(head + 2 * i);
    for (std::int64_t i = 0; i < half; ++i) rows.push_back(head + 2 * i + 1);
    for (std::int64_t i = 2 * half; i < head_dim; ++i) rows.push_back(head + i);
  }
  return rows;
}

ModulePlaces locate_chatglm_modules(const ModelInfo& info) {
  const std::int64_t q = info.heads * info.head_dim;
  const std::int64_t kv = info.kv_heads * info.head_dim;
  const std::int64_t inner = info.intermediate_size;
  const auto q_rows = halves_of_pairs(0, info.heads, info.head_dim);
  const auto k_rows = halves_of_pairs(q, info.kv_heads, info.head_dim);
  return [=](const std::string& name) -> std::optional<ModulePlace> {
    if (name == "model.embed_tokens") return ModulePlace{"transformer.embedding.word_embeddings"};
    if (name == "model.norm") return ModulePlace{"transformer.encoder.final_layernorm"};
    if (name == "lm_head") return ModulePlace{"transformer.output_layer"};
    const auto place = split_layer(name);
    if (!place) return std::nullopt;
    const std::string& module = place->module;
    const std::string layer = "transformer.encoder.layers." + place->layer + ".";
    const std::string qkv = layer + "self_attention.query_key_value";
    const std::string gate_up = layer + "mlp.dense_h_to_4h";
    if (module == "self_attn.q_proj") return ModulePlace{qkv, q + 2 * kv, 0, q_rows};
    if (module == "self_attn.k_proj") return ModulePlace{qkv, q + 2 * kv, 0, k_rows};
    if (module == "self_attn.v_proj") return ModulePlace{qkv, q + 2 * kv, q + kv, {}};
    if (module == "self_attn.o_proj") return ModulePlace{layer + "self_attention.dense"};
    if (module == "mlp.gate_proj") return ModulePlace{gate_up, 2 * inner, 0, {}};
    if (module == "mlp.up_proj") return ModulePlace{gate_up, 2 * inner, inner, {}};
    if (module == "mlp.down_proj") return ModulePlace{layer + "mlp.dense_4h_to_h"};
    // The norms.
    return ModulePlace{layer + module};
  };
}

}  // namespace

Family chatglm_family() {
  return {.model_type = "chatglm",
          .defaults = {.context_length = 2048, .eos = 2, .kv_heads = 1, .epsilon = 1e-5},
          .configure = configure_chatglm,
          .rename_keys = rename_chatglm_keys,
          .locate_modules = locate_chatglm_modules};
}

}  // namespace tandem
