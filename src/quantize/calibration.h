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
#include "quantize/attention_scales.h"
#include "quantize/block_runner.h"

namespace tandem {

// What an int8 scale could be if the channels with the largest values were hot: whatever codes clip
// there is computed in float.
struct ShadowOption {
  // Channels with the largest maxima.
  std::int64_t hot = 0;
  // The bound with the least squared error, in which what hot channels have beyond it does not count.
  float bound = 0;
  // Mean square of that error over all values.
  float error = 0;
};

// The channels of an input that are hot, ascending, and the bound of its scale; usually none.
struct Shadow {
  float bound = 0;
  std::vector<std::int32_t> channels;
};

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
  // With 0, 1, 2, 4, … hot channels; empty unless asked for.
  std::vector<ShadowOption> shadow_options = {};
  // What was chosen (shadows.h).
  Shadow shadow = {};
};

// Splits tokenized text into windows of `window` tokens and keeps the first `samples`; fewer if the
// text is shorter. Throws kInvalidArgument, stating the number of tokens, if there is not even one.
CalibrationWindows cut_windows(std::span<const std::int32_t> ids, std::int64_t window,
                               std::int64_t samples);

// At most `count` (at least 1) of the windows, spread evenly over all.
CalibrationWindows some_of(const CalibrationWindows& windows, std::int64_t count);

// Keyed by node name. Linears outside blocks (the head) are not recorded. `progress(done, total)` is
// called after each block; for `journal` see BlockRunner::run(). `with_shadows`: with shadow_options.
// `ranges`: gets those of every attention, if not null.
std::map<std::string, InputStatistics> calibrate(
    const Graph& graph, const CalibrationWindows& windows, ThreadPool& pool,
    const std::function<void(int, int)>& progress, BlockJournal* journal = nullptr,
    bool with_shadows = false, AttentionRanges* ranges = nullptr);

}  // namespace tandem
