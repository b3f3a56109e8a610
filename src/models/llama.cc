// Llama 2, 3, 3.1, 3.2, SmolLM2 and the many models with the same architecture.
#include "models/families.h"

namespace tandem {
namespace {

void configure_llama(const JsonObject& config, DecoderConfig& decoder) {
  decoder.qkv_bias = config.get_bool_or("attention_bias", false);
  decoder.output_bias = decoder.qkv_bias;
  decoder.mlp_bias = config.get_bool_or("mlp_bias", false);
}

}  // namespace

Family llama_family() {
  return {.model_type = "llama",
          .defaults = {.context_length = 2048, .bos = 1, .eos = 2},
          .configure = configure_llama};
}

}  // namespace tandem
