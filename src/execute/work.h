// How much the segments of a graph have to do: estimates in one unit, for planning what was never
// measured.
#pragma once

#include <span>

#include "devices/device.h"
#include "graph/graph.h"

namespace tandem {

// As multiply-adds of int8.
struct Work {
  // For each row.
  double per_row = 0;
  // For each row and each token that it attends to.
  double per_pair = 0;

  Work& operator+=(const Work& other) noexcept {
    per_row += other.per_row;
    per_pair += other.per_pair;
    return *this;
  }
};

Work work_of(const Graph& graph, const Node& node);

// Rows, and pairs of a row and a token that it attends to.
double total(const Work& work, std::int64_t rows, std::span<const SequenceSlice> slices);

}  // namespace tandem
