// Which layers look back no further than a window.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/json.h"

namespace tandem {

// "sliding_window" in tokens, `fallback` where the key is absent; 0 where it is null.
std::int64_t read_window(const JsonObject& config, std::int64_t fallback);

// The window of each of `layers` layers, 0 for none: of those that "layer_types" names, or, where
// that key is absent, of those that `slides` picks. A window of 0 means that no layer may have one.
std::vector<std::int64_t> read_windows(const JsonObject& config, std::int64_t layers,
                                       std::int64_t window,
                                       const std::function<bool(std::int64_t)>& slides);

}  // namespace tandem
