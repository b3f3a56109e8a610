// The windows of Qwen 2 and 3, which follow one rule.
#pragma once

#include <cstdint>
#include <vector>

#include "base/json.h"

namespace tandem {

// Where "use_sliding_window" is true: of the layers that "layer_types" names, or else of those from
// "max_window_layers" on.
std::vector<std::int64_t> read_qwen_windows(const JsonObject& config, std::int64_t layers);

}  // namespace tandem
