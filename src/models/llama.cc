// Llama 2, 3, 3.1, 3.2 and the many models that took their form.
#include "models/decoder_blocks.h"
#include "models/families.h"

namespace tandem {
namespace {

Graph build_llama(const JsonObject& config, const WeightSource& weights) {
  DecoderConfig decoder = read_decoder_config(config);
  decoder.qkv_bias = config.get_bool_or("attention_bias", false);
  decoder.output_bias = decoder.qkv_bias;
  decoder.mlp_bias = config.get_bool_or("mlp_bias", false);
  return build_decoder(decoder, weights);
}

}  // namespace

Family llama_family() {
  return {.model_type = "llama", .build = build_llama, .context_length = 2048, .bos = 1, .eos = 2};
}

}  // namespace tandem
