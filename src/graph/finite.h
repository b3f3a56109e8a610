// Looks for the weights of a graph that are not numbers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/observer.h"
#include "base/thread_pool.h"
#include "graph/graph.h"

namespace tandem {

struct NonFinite {
  // "model.norm.weight".
  std::string tensor;
  // Row-major.
  std::int64_t element = 0;
  float value = 0;
};

// "model.norm.weight: element 3: expected a finite number, got nan".
std::string to_string(const NonFinite& found);

// The first NaN or infinity among gains, biases, tables, float weights and scales. Takes as long as
// reading them; memory stays at a few pieces. The observer can cancel (kCancelled).
std::optional<NonFinite> find_non_finite(const Graph& graph, ThreadPool& pool,
                                         const Observer& observer = silent());

}  // namespace tandem
