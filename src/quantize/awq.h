// The pass awq, activation-aware weight quantization (Lin et al., 2023): channels that matter are
// multiplied before their weights are rounded, and weights are clipped where that rounds better.
// The search is AMD Quark's: 20 exponents of the mean |x| of each channel, ten clip steps, no
// scaling by the weights.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "base/observer.h"
#include "base/thread_pool.h"
#include "graph/graph.h"
#include "quantize/block_runner.h"
#include "quantize/recipe.h"
#include "quantize/scaling_groups.h"

namespace tandem {

struct AwqSettings {
  // Tokens, in whole windows spread over the text, on which the errors of a norm's readers are
  // computed, and those of other groups; 0: all of them. The mean |x| is always that of all.
  std::int64_t search_tokens = 2048;
  bool clip = true;
  // The order of AMD Quark 0.10 to 0.13: the error of q, k and v is that on the next block's
  // input, the attention's output projection is clipped for an input divided by the factors before
  // they are shared by query heads, and every product is rounded to the scales' type.
  bool quark = false;
};

inline constexpr int kAwqExponents = 20;

// What the search found for one group of the graph.
struct AwqScaling {
  ScalingGroup group;
  // Mean squared error for each exponent i / 20.
  std::array<double, kAwqExponents> losses{};
  // The exponent with the least.
  int best = 0;
  // [width of the group's value].
  std::vector<float> factors;
};

struct AwqResult {
  std::vector<AwqScaling> scalings;
  // Of each Linear that is clipped: F32 [n, k / group].
  std::map<NodeId, Tensor> bounds;
};

// Searches, for what the recipe's decode schemes make of the graph. Groups whose Linears all stay
// float are left out. Throws kInvalidArgument for an activation that is not finite, what the
// runner throws for windows that do not fit, and kCancelled.
AwqResult search_awq(const Graph& graph, const Recipe& recipe, const AwqSettings& settings,
                     const CalibrationWindows& windows, ThreadPool& pool, Observer& observer,
                     BlockJournal* journal = nullptr);

// The graph with the factors folded and the weights clipped.
Graph apply_awq(const Graph& graph, const Recipe& recipe, const AwqSettings& settings,
                const AwqResult& result);

}  // namespace tandem
