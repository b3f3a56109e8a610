// The pass smoothquant (Xiao et al., 2023): moves part of an activation's range into the weights
// that read it, so that one int8 scale for all of its channels loses less.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/observer.h"
#include "base/thread_pool.h"
#include "graph/graph.h"
#include "quantize/block_runner.h"
#include "quantize/recipe.h"
#include "quantize/scaling_groups.h"

namespace tandem {

struct SmoothQuantSettings {
  // In [0, 1]: how much of the range moves. 0 equalizes the weights' columns, 1 the activations.
  // None: for each group what rounds best of 0, 0.05, … 1.
  std::optional<double> alpha = 0.5;
  // Also between an attention's values and its output projection, and between a gate and its down
  // projection; else only where a norm absorbs the factors, as in the paper.
  bool everywhere = false;
  // Tokens, in whole windows spread over the text, on which alphas are compared; 0: all of them.
  // The maxima of channels are always those of all.
  std::int64_t search_tokens = 2048;
};

// How many alphas are tried.
inline constexpr int kSmoothQuantAlphas = 21;

// What one group of the graph is divided by.
struct Smoothing {
  ScalingGroup group;
  double alpha = 0;
  // Of a search: the mean squared error of the Linears' outputs for each alpha i / 20.
  std::vector<double> losses;
  // max|x|^alpha / max|w|^(1 - alpha), over the calibration tokens and the rows of all Linears that
  // read the channel; 1 for a channel that is zero in either. [width of the group's value].
  std::vector<float> factors;
};

// A search takes the alpha with the least error of the Linears' outputs when their inputs and
// weights are rounded as the recipe's prefill schemes say, a static scale chosen from the searched
// tokens; of equal ones 0.5, else the first. Groups whose Linears all stay float in prefill are left
// out of it. Throws kInvalidArgument for an activation that is not finite, what the runner throws
// for windows that do not fit, and kCancelled.
std::vector<Smoothing> find_smoothing(const Graph& graph, const Recipe& recipe,
                                      const SmoothQuantSettings& settings,
                                      const CalibrationWindows& windows, ThreadPool& pool,
                                      Observer& observer, BlockJournal* journal = nullptr);

// The graph with the channels of each group divided and the columns that read them multiplied: the
// same function.
Graph smooth(const Graph& graph, const std::vector<Smoothing>& smoothing);

}  // namespace tandem
