// Decides which buffers may share memory, both for programs and for executors.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem {

// A buffer and when it is in use, counted in steps of whatever runs in order.
struct Lifetime {
  std::int64_t bytes = 0;
  // From the step that writes it to the last one that reads it; first < 0: never in use.
  int first = -1;
  int last = -1;
};

struct MemoryPlan {
  // One per buffer, 64-byte aligned; -1 for one that is never in use.
  std::vector<std::int64_t> offsets;
  // Total size.
  std::int64_t bytes = 0;
};

// First fit in order of creation: the lowest offset that does not overlap a buffer in use at the
// same time.
MemoryPlan plan_memory(std::span<const Lifetime> buffers);

}  // namespace tandem
