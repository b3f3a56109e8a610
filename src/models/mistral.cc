// Mistral 7B v0.1 to v0.3 and Nemo: Llama's blocks, with a sliding window in all layers of v0.1.
#include "models/families.h"
#include "models/layer_types.h"

namespace tandem {
namespace {

void configure_mistral(const JsonObject& config, DecoderConfig& decoder) {
  decoder.windows.assign(decoder.windows.size(), read_window(config, 4096));
}

}  // namespace

Family mistral_family() {
  return {.model_type = "mistral",
          .defaults = {.context_length = 131072, .bos = 1, .eos = 2, .kv_heads = 8},
          .configure = configure_mistral};
}

}  // namespace tandem
