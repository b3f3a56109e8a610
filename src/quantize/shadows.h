// Chooses the hot channels of static int8 inputs, whose outliers would cost all other channels their
// resolution: the scale is made for the others, and what the codes of hot channels clip is computed
// in float beside the integer product (a ShadowLinear). The idea is that of llm.npu (Xu et al.,
// ASPLOS 2025), which calls it shadow outlier execution.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "graph/pass.h"
#include "quantize/calibration.h"
#include "quantize/recipe.h"

namespace tandem {

// What calibration found of a graph, to be completed by shadows.
struct ShadowContext {
  // After passes, and as loaded: what is lost is measured against that.
  const Graph& graph;
  const Graph& loaded;
  const Recipe& recipe;
  // With a budget, losses are measured on two of them.
  const CalibrationWindows& windows;
};

// Sets `shadow` of those statistics whose Linears are given hot channels. With a budget they need
// shadow_options; the recipe's own scales are what is compared with.
void choose_shadows(const ShadowContext& context,
                    std::map<std::string, InputStatistics>& statistics, ThreadPool& pool,
                    Observer& observer);

// Of the shadows in a graph.
struct ShadowCount {
  std::int64_t modules = 0;
  // Hot channels, added up over the modules.
  std::int64_t channels = 0;
  // Of their weights.
  std::int64_t bytes = 0;
};
ShadowCount count_shadows(const Graph& graph);

}  // namespace tandem
