// Runs a float graph over calibration text, block by block, and collects what the quantizers need
// to know about each Linear's input.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "graph/graph.h"
#include "quantize/block_runner.h"

namespace tandem {

// Statistics of the input of one Linear over all calibration tokens.
struct InputStatistics {
  // Largest |x|.
  float max = 0;
  // The 99.9th percentile of |x| (upper edge of its histogram bin).
  float percentile = 0;
  // The bound of int8 quantization with the least squared error.
  float least_error = 0;
  // Largest |x| of each input channel, [k].
  std::vector<float> channel_max;
};

// Splits tokenized text into windows of `window` tokens and keeps the first `samples`; fewer if the
// text is shorter. Throws kInvalidArgument, stating the number of tokens, if there is not even one.
CalibrationWindows cut_windows(std::span<const std::int32_t> ids, std::int64_t window,
                               std::int64_t samples);

// At most `count` (at least 1) of the windows, spread evenly over all.
CalibrationWindows some_of(const CalibrationWindows& windows, std::int64_t count);

// Keyed by node name. Linears outside blocks (the head) are not recorded. `progress(done, total)` is
// called after each block; for `journal` see BlockRunner::run().
std::map<std::string, InputStatistics> calibrate(const Graph& graph,
                                                 const CalibrationWindows& windows,
                                                 ThreadPool& pool,
                                                 const std::function<void(int, int)>& progress,
                                                 BlockJournal* journal = nullptr);

}  // namespace tandem
