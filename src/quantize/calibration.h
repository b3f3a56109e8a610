// Runs a float graph over calibration text, block by block, and keeps what the quantizers need to
// know of each Linear's input.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "devices/device.h"
#include "graph/graph.h"

namespace tandem {

// Statistics of the input of one Linear over all calibration tokens.
struct InputStatistics {
  float max = 0;         // largest |x|
  float percentile = 0;  // the 99.9th percentile of |x| (upper edge of its histogram bin)
  float least_error =
      0;  // the largest |x| that an int8 scale should reach to round with the least squared error
  std::vector<float> channel_max;  // largest |x| of each input channel, [k]
};

struct CalibrationWindows {
  std::vector<std::int32_t> ids;  // windows joined
  std::int64_t window = 0;        // tokens in each; ids.size() is a multiple
};

// Cuts the first `samples` windows of `window` tokens from tokenized text; fewer if the text is
// shorter (at least one, else kInvalidArgument says how many tokens there are).
CalibrationWindows cut_windows(std::span<const std::int32_t> ids, std::int64_t window,
                               std::int64_t samples);

// Key: node name. Blocks are compiled, run over all windows and dropped one after the other, so
// that memory stays near two blocks beside the hidden states (tokens × hidden floats). Linears
// outside blocks (the head) are not recorded. `progress(done, total)` is called after each block.
std::map<std::string, InputStatistics> calibrate(const Graph& graph,
                                                 const CalibrationWindows& windows,
                                                 ThreadPool& pool,
                                                 const std::function<void(int, int)>& progress);

}  // namespace tandem
