// Qwen 3: Qwen 2 without biases, with a norm on each head of q and k.
#include "models/families.h"
#include "models/qwen_windows.h"

namespace tandem {
namespace {

void configure_qwen3(const JsonObject& config, DecoderConfig& decoder) {
  decoder.qk_norm = true;
  decoder.qkv_bias = config.get_bool_or("attention_bias", false);
  decoder.output_bias = decoder.qkv_bias;
  decoder.windows = read_qwen_windows(config, decoder.info.layers);
}

}  // namespace

Family qwen3_family() {
  return {.model_type = "qwen3",
          .defaults = {.context_length = 32768, .head_dim = 128},
          .configure = configure_qwen3};
}

}  // namespace tandem
