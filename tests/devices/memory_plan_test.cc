// The planner of memory: nothing that is in use at the same time overlaps, and memory is used again.
#include "devices/memory_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kernels/cases.h"

namespace tandem {
namespace {

using testing::Random;
using testing::uniform;

void expect_sound(std::span<const Lifetime> buffers, const MemoryPlan& plan) {
  ASSERT_EQ(plan.offsets.size(), buffers.size());
  for (std::size_t a = 0; a < buffers.size(); ++a) {
    if (buffers[a].first < 0) {
      ASSERT_EQ(plan.offsets[a], -1);
      continue;
    }
    ASSERT_GE(plan.offsets[a], 0);
    ASSERT_EQ(plan.offsets[a] % 64, 0);
    ASSERT_LE(plan.offsets[a] + buffers[a].bytes, plan.bytes);
    for (std::size_t b = 0; b < a; ++b) {
      if (buffers[b].first < 0) continue;
      const bool together =
          buffers[a].first <= buffers[b].last && buffers[b].first <= buffers[a].last;
      const bool apart = plan.offsets[a] + buffers[a].bytes <= plan.offsets[b] ||
                         plan.offsets[b] + buffers[b].bytes <= plan.offsets[a];
      ASSERT_TRUE(!together || apart) << a << " and " << b;
    }
  }
}

TEST(MemoryPlan, KeepsApartWhatIsInUseTogether) {
  Random random(1);
  for (int round = 0; round < 300; ++round) {
    std::vector<Lifetime> buffers;
    std::int64_t total = 0;
    for (int i = uniform(random, 0, 60); i > 0; --i) {
      if (uniform(random, 0, 9) == 0) {
        buffers.emplace_back();
        continue;
      }
      const int first = uniform(random, 0, 30);
      buffers.push_back(
          {uniform(random, 1, 1000), first, first + uniform(random, 0, round % 2 ? 3 : 30)});
      total += (buffers.back().bytes + 63) / 64 * 64;
    }
    const MemoryPlan plan = plan_memory(buffers);
    expect_sound(buffers, plan);
    EXPECT_LE(plan.bytes, total);
  }
}

TEST(MemoryPlan, UsesMemoryAgain) {
  // A chain: each buffer is read by the next step alone, so that two are enough.
  std::vector<Lifetime> chain;
  for (int i = 0; i < 100; ++i) chain.push_back({128, i, i + 1});
  EXPECT_EQ(plan_memory(chain).bytes, 256);
  // What lies between two that stay is filled by what fits.
  const std::vector<Lifetime> gap = {{64, 0, 9}, {128, 0, 1}, {64, 0, 9}, {100, 2, 3}, {64, 4, 5}};
  const MemoryPlan plan = plan_memory(gap);
  EXPECT_EQ(plan.offsets, (std::vector<std::int64_t>{0, 64, 192, 64, 64}));
  EXPECT_EQ(plan.bytes, 256);
}

TEST(MemoryPlan, TakesBuffersInAnyOrder) {
  const std::vector<Lifetime> buffers = {{10, 5, 6}, {}, {10, 0, 5}, {10, 6, 6}};
  const MemoryPlan plan = plan_memory(buffers);
  EXPECT_EQ(plan.offsets, (std::vector<std::int64_t>{64, -1, 0, 0}));
  EXPECT_EQ(plan.bytes, 128);
  EXPECT_EQ(plan_memory({}).bytes, 0);
}

}  // namespace
}  // namespace tandem
