// Reads the sliding windows of layers from a configuration.
#include "models/layer_types.h"

#include "base/error.h"

namespace tandem {

std::int64_t read_window(const JsonObject& config, std::int64_t fallback) {
  constexpr std::int64_t kMaxWindow = std::int64_t{1} << 30;
  const bool null = config.json().contains("sliding_window") && !config.has("sliding_window");
  return null ? 0
              : config.get_int_or("sliding_window", fallback, fallback == 0 ? 0 : 1, kMaxWindow);
}

std::vector<std::int64_t> read_windows(const JsonObject& config, std::int64_t layers,
                                       std::int64_t window,
                                       const std::function<bool(std::int64_t)>& slides) {
  std::vector<std::int64_t> windows;
  if (!config.has("layer_types")) {
    for (std::int64_t layer = 0; layer < layers; ++layer)
      windows.push_back(slides(layer) ? window : 0);
    return windows;
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
           config.where(), windows.size());
    const bool sliding = type == "sliding_attention";
    if (sliding && window == 0)
      fail(ErrorCode::kFormat,
           "[models] {}: layer_types: layer {} is \"sliding_attention\", expected "
           "use_sliding_window to be true and sliding_window to be given",
           config.where(), windows.size());
    windows.push_back(sliding ? window : 0);
  }
  return windows;
}

}  // namespace tandem
