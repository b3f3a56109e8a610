// Qwen 1.5, 2 and 2.5: Llama's blocks with biases on q, k and v, and an optional sliding window in
// the upper layers.
#include "models/families.h"
#include "models/layer_types.h"
#include "models/qwen_windows.h"

namespace tandem {
namespace {

void configure_qwen2(const JsonObject& config, DecoderConfig& decoder) {
  decoder.qkv_bias = true;
  decoder.windows = read_qwen_windows(config, decoder.info.layers);
}

}  // namespace

std::vector<std::int64_t> read_qwen_windows(const JsonObject& config, std::int64_t layers) {
  constexpr std::int64_t kMaxLayers = std::int64_t{1} << 30;
  const bool slides = config.get_bool_or("use_sliding_window", false);
  const std::int64_t first = config.get_int_or("max_window_layers", 28, 0, kMaxLayers);
  return read_windows(config, layers, slides ? read_window(config, 4096) : 0,
                      [&](std::int64_t layer) { return layer >= first; });
}

Family qwen2_family() {
  return {
      .model_type = "qwen2", .defaults = {.context_length = 32768}, .configure = configure_qwen2};
}

}  // namespace tandem
