// First-fit placement of buffers by lifetime.
#include "devices/memory_plan.h"

#include <algorithm>

#include "devices/buffers.h"

namespace tandem {

MemoryPlan plan_memory(std::span<const Lifetime> buffers) {
  MemoryPlan plan;
  plan.offsets.assign(buffers.size(), -1);
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < buffers.size(); ++i)
    if (buffers[i].first >= 0) order.push_back(i);
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return buffers[a].first != buffers[b].first ? buffers[a].first < buffers[b].first : a < b;
  });
  // Buffers that may still be in use, by offset.
  std::vector<std::size_t> placed;
  const auto end_of = [&](std::size_t i) { return plan.offsets[i] + align_up(buffers[i].bytes); };
  for (const std::size_t i : order) {
    const Lifetime& buffer = buffers[i];
    std::erase_if(placed, [&](std::size_t other) { return buffers[other].last < buffer.first; });
    std::int64_t offset = 0;
    for (const std::size_t other : placed) {
      if (plan.offsets[other] >= offset + align_up(buffer.bytes)) break;
      offset = std::max(offset, end_of(other));
    }
    plan.offsets[i] = offset;
    plan.bytes = std::max(plan.bytes, end_of(i));
    const auto behind = std::ranges::find_if(
        placed, [&](std::size_t other) { return plan.offsets[other] > offset; });
    placed.insert(behind, i);
  }
  return plan;
}

}  // namespace tandem
