// Phi-3-mini, Phi-3.5-mini and Phi-4-mini: Llama's blocks with fused q, k, v and fused gate, up,
// LongRoPE and an optional sliding window.
#include "models/families.h"
#include "models/layer_types.h"
#include "models/renamed_weights.h"

namespace tandem {
namespace {

void configure_phi3(const JsonObject& config, DecoderConfig& decoder) {
  decoder.windows.assign(decoder.windows.size(), read_window(config, 0));
}

ModulePlaces locate_phi3_modules(const ModelInfo& info) {
  const std::int64_t q = info.heads * info.head_dim;
  const std::int64_t kv = info.kv_heads * info.head_dim;
  const std::int64_t inner = info.intermediate_size;
  return [=](const std::string& name) -> std::optional<ModulePlace> {
    const auto place = split_layer(name);
    if (!place) return std::nullopt;
    const std::string prefix = "model.layers." + place->layer;
    const std::string qkv = prefix + ".self_attn.qkv_proj";
    const std::string gate_up = prefix + ".mlp.gate_up_proj";
    if (place->module == "self_attn.q_proj") return ModulePlace{qkv, q + 2 * kv, 0, {}};
    if (place->module == "self_attn.k_proj") return ModulePlace{qkv, q + 2 * kv, q, {}};
    if (place->module == "self_attn.v_proj") return ModulePlace{qkv, q + 2 * kv, q + kv, {}};
    if (place->module == "mlp.gate_proj") return ModulePlace{gate_up, 2 * inner, 0, {}};
    if (place->module == "mlp.up_proj") return ModulePlace{gate_up, 2 * inner, inner, {}};
    return std::nullopt;
  };
}

}  // namespace

Family phi3_family() {
  return {.model_type = "phi3",
          .defaults = {.context_length = 4096, .bos = 1, .eos = 32000, .epsilon = 1e-5},
          .configure = configure_phi3,
          .locate_modules = locate_phi3_modules};
}

}  // namespace tandem
