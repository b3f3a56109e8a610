// The windows of Qwen 2 and 3, which follow the same rule.
#pragma once

#include <cstdint>
#include <vector>

#include "base/json.h"

namespace tandem {

// If "use_sliding_window" is true: windows on the layers that "layer_types" lists, or else on those
// from "max_window_layers" on.
std::vector<std::int64_t> read_qwen_windows(const JsonObject& config, std::int64_t layers);

}  // namespace tandem
