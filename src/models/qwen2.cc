// Qwen 2 and 2.5: Llama's blocks with biases on q, k and v, and a sliding window in the upper
// layers by choice.
#include <string>
#include <vector>

#include "base/error.h"
#include "models/decoder_blocks.h"
#include "models/families.h"

namespace tandem {
namespace {

constexpr std::int64_t kMaxWindow = std::int64_t{1} << 30;

// Which layers look back no further than the window: those that `layer_types` names, or where it is
// absent those from `max_window_layers` on.
std::vector<bool> sliding_layers(const JsonObject& config, std::int64_t layers, bool has_window) {
  std::vector<bool> sliding;
  if (!config.has("layer_types")) {
    const std::int64_t first = config.get_int_or("max_window_layers", 28, 0, kMaxWindow);
    for (std::int64_t i = 0; i < layers; ++i) sliding.push_back(has_window && i >= first);
    return sliding;
  }
  const Json& types = config.at("layer_types");
  if (!types.is_array() || static_cast<std::int64_t>(types.size()) != layers)
    fail(ErrorCode::kFormat, "[models] {}: layer_types: expected an array of {} names",
         config.where(), layers);
  for (const Json& type : types) {
    if (type != "full_attention" && type != "sliding_attention")
      fail(ErrorCode::kUnsupported,
           "[models] {}: layer_types: expected \"full_attention\" or \"sliding_attention\" for "
           "layer {}",
           config.where(), sliding.size());
    sliding.push_back(type == "sliding_attention");
    if (sliding.back() && !has_window)
      fail(ErrorCode::kFormat,
           "[models] {}: layer_types: layer {} is \"sliding_attention\", expected "
           "use_sliding_window to be true and sliding_window to be given",
           config.where(), sliding.size() - 1);
  }
  return sliding;
}

Graph build_qwen2(const JsonObject& config, const WeightSource& weights) {
  DecoderConfig decoder = read_decoder_config(config);
  decoder.qkv_bias = true;
  std::int64_t window = 0;
  // "sliding_window": null is no window; an absent key is transformers' default.
  const bool null_window =
      config.json().contains("sliding_window") && !config.has("sliding_window");
  if (config.get_bool_or("use_sliding_window", false) && !null_window)
    window = config.get_int_or("sliding_window", 4096, 1, kMaxWindow);
  const std::vector<bool> sliding = sliding_layers(config, decoder.info.layers, window > 0);
  for (std::size_t i = 0; i < sliding.size(); ++i)
    if (sliding[i]) decoder.windows[i] = window;
  return build_decoder(decoder, weights);
}

}  // namespace

Family qwen2_family() {
  return {.model_type = "qwen2",
          .build = build_qwen2,
          .context_length = 32768,
          .bos = std::nullopt,
          .eos = std::nullopt};
}

}  // namespace tandem
