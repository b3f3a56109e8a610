// The pass smoothquant (Xiao et al., 2023): moves part of an activation's range into the weights
// that read it, so that one int8 scale for all of its channels loses less.
#pragma once

#include "base/observer.h"
#include "base/thread_pool.h"
#include "graph/graph.h"
#include "quantize/block_runner.h"

namespace tandem {

struct SmoothQuantSettings {
  // In [0, 1]: how much of the range moves. 0 equalizes the weights' columns, 1 the activations.
  double alpha = 0.5;
  // Also between an attention's values and its output projection, and between a gate and its down
  // projection; else only where a norm absorbs the factors, as in the paper.
  bool everywhere = false;
};

// The graph with each channel of those activations divided by max|x|^alpha / max|w|^(1 - alpha),
// over the calibration tokens and the rows of all Linears that read it, and their columns
// multiplied by it: the same function. A channel that is zero in either stays. Throws what
// calibrate() does.
Graph smooth(const Graph& graph, const SmoothQuantSettings& settings,
             const CalibrationWindows& windows, ThreadPool& pool, Observer& observer,
             BlockJournal* journal = nullptr);

}  // namespace tandem
