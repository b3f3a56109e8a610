// Runs a graph node by node in the plainest way: the yardstick for what the builders build and for
// what devices compute.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "graph/graph.h"

namespace tandem::testing {

// A value, [rows, width] row-major; doubles hold floats and integers of every type exactly.
using Matrix = std::vector<double>;

// Every value of the graph, by id, given those of its inputs. The tokens are one sequence from
// position 0 on. Sums are in double, what comes out of a node of floats is rounded to float; codes
// and sums of codes are exact.
std::vector<Matrix> interpret_values(const Graph& graph, std::span<const Matrix> inputs);

// Logits [tokens, vocabulary] of a whole prompt, every row selected.
std::vector<float> interpret(const Graph& graph, std::span<const std::int32_t> ids);

}  // namespace tandem::testing
