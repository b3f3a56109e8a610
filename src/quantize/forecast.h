// What a quantization will take, told before it begins.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"
#include "graph/graph.h"
#include "quantize/recipe.h"

namespace tandem {

struct Forecast {
  double seconds = 0;
  // The largest resident memory of the process.
  std::int64_t memory_bytes = 0;
  // Of the output.
  std::int64_t disk_bytes = 0;
  // Of what is kept on disk until the output is whole.
  std::int64_t scratch_bytes = 0;
};

// For a float graph. `tokens`: of the calibration text, 0 without one; `phases`: 2 for a package, 1
// for the decode weights alone. Operations are counted from the shapes and divided by the speed of
// a product that is measured on the pool for a fraction of a second.
Forecast forecast(const Graph& graph, const Recipe& recipe, std::int64_t tokens, int phases,
                  ThreadPool& pool);

// The largest resident memory of this process so far.
std::int64_t peak_memory_bytes();

}  // namespace tandem
