// Gemma 2: norms before and after attention and MLP, GELU, scaled embeddings, soft-capped scores
// and logits, and a sliding window in every second layer.
#include <cmath>

#include "base/error.h"
#include "models/families.h"
#include "models/layer_types.h"

namespace tandem {
namespace {

// A cap above 0, or null for none.
float read_softcap(const JsonObject& config, const char* key, double fallback) {
  if (config.json().contains(key) && !config.has(key)) return 0;
  const double cap = config.get_number_or(key, fallback);
  if (!(cap > 0 && cap <= 1e9))
    fail(ErrorCode::kFormat, "[models] {}: {}: expected a number above 0, got {}", config.where(),
         key, cap);
  return static_cast<float>(cap);
}

void configure_gemma2(const JsonObject& config, DecoderConfig& decoder) {
  decoder.norm_offset = 1;
  decoder.post_norms = true;
  decoder.qkv_bias = config.get_bool_or("attention_bias", false);
  decoder.output_bias = decoder.qkv_bias;
  // Only the key "hidden_activation" counts; early files have another value under "hidden_act".
  if (!config.has("hidden_activation")) decoder.activation = Activation::kGelu;
  decoder.embedding_scale = std::sqrt(static_cast<float>(decoder.info.hidden_size));
  const std::int64_t scalar = config.get_int_or("query_pre_attn_scalar", 256, 1, 1 << 20);
  decoder.attention_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(scalar)));
  decoder.attention_softcap = read_softcap(config, "attn_logit_softcapping", 50);
  decoder.logit_softcap = read_softcap(config, "final_logit_softcapping", 30);
  decoder.windows = read_windows(config, decoder.info.layers, read_window(config, 4096),
                                 [](std::int64_t layer) { return layer % 2 == 0; });
}

}  // namespace

Family gemma2_family() {
  return {.model_type = "gemma2",
          .defaults = {.context_length = 8192,
                       .bos = 2,
                       .eos = 1,
                       .kv_heads = 4,
                       .head_dim = 256,
                       .tied_head = true},
          .configure = configure_gemma2};
}

}  // namespace tandem
