// Looks for the weights of a graph that are not numbers.
#pragma once

#include <string>

#include "graph/graph.h"

namespace tandem {

// The name of the first tensor that holds NaN or infinity ("model.norm.weight"), among gains,
// biases, tables, float weights and scales; empty if there is none. Takes as long as reading them.
std::string find_non_finite(const Graph& graph);

}  // namespace tandem
