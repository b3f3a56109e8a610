// SmolLM3: Llama's blocks; in every fourth layer q and k are not rotated.
#include "base/error.h"
#include "models/families.h"
#include "models/layer_types.h"

namespace tandem {
namespace {

// Despite its name, "no_rope_layers" says for each layer whether it rotates q and k (1) or not (0);
// if it is absent, every "no_rope_layer_interval"th layer does not.
std::vector<bool> read_rotates(const JsonObject& config, std::int64_t layers) {
  std::vector<bool> rotates;
  if (!config.has("no_rope_layers")) {
    const std::int64_t interval = config.get_int_or("no_rope_layer_interval", 4, 1, 1 << 20);
    for (std::int64_t layer = 0; layer < layers; ++layer)
      rotates.push_back((layer + 1) % interval != 0);
    return rotates;
  }
  const std::vector<std::int64_t> flags = config.get_ints("no_rope_layers");
  if (static_cast<std::int64_t>(flags.size()) != layers)
    fail(ErrorCode::kFormat, "[models] {}: no_rope_layers: expected {} numbers, got {}",
         config.where(), layers, flags.size());
  for (const std::int64_t flag : flags) rotates.push_back(flag != 0);
  return rotates;
}

void configure_smollm3(const JsonObject& config, DecoderConfig& decoder) {
  decoder.qkv_bias = config.get_bool_or("attention_bias", false);
  decoder.output_bias = decoder.qkv_bias;
  decoder.mlp_bias = config.get_bool_or("mlp_bias", false);
  decoder.rotates = read_rotates(config, decoder.info.layers);
  const bool slides = config.get_bool_or("use_sliding_window", false);
  decoder.windows = read_windows(
      config, decoder.info.layers, slides ? read_window(config, 0) : 0,
      [&](std::int64_t layer) { return !decoder.rotates[static_cast<std::size_t>(layer)]; });
}

}  // namespace

Family smollm3_family() {
  return {.model_type = "smollm3",
          .defaults = {.context_length = 32768,
                       .bos = 128000,
                       .eos = 128001,
                       .kv_heads = 4,
                       .rope_theta = 2000000,
                       .tied_head = true},
          .configure = configure_smollm3};
}

}  // namespace tandem
