// The sliding window of each layer.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/json.h"

namespace tandem {

// "sliding_window" in tokens, `fallback` if the key is absent; 0 if it is null.
std::int64_t read_window(const JsonObject& config, std::int64_t fallback);

// The window of each of `layers` layers, 0 for none: windows apply to the layers that "layer_types"
// lists or, if that key is absent, to those that `slides` selects. A window of 0 means that no
// layer may have one.
std::vector<std::int64_t> read_windows(const JsonObject& config, std::int64_t layers,
                                       std::int64_t window,
                                       const std::function<bool(std::int64_t)>& slides);

}  // namespace tandem
