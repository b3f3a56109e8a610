// Runs a graph node by node in the plainest way: the yardstick for what the builders build.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "graph/graph.h"

namespace tandem::testing {

// Logits [tokens, vocabulary] of a whole prompt, every row selected. Sums are in double, values
// between nodes in float.
std::vector<float> interpret(const Graph& graph, std::span<const std::int32_t> ids);

}  // namespace tandem::testing
