// The team of threads: static partitioning, waking from spinning and from sleep, nested and
// concurrent callers, jobs that throw.
#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support.h"

namespace tandem {
namespace {

TEST(Partition, CoversEveryIndexOnceWithAlignedBoundaries) {
  for (const std::int64_t count : {0, 1, 7, 64, 100, 1000, 4097}) {
    for (const int parts : {1, 2, 3, 7, 64}) {
      for (const std::int64_t grain : {1, 3, 16, 128}) {
        std::int64_t reached = 0;
        std::int64_t smallest = count, largest = 0;
        for (int i = 0; i < parts; ++i) {
          const Range range = partition(count, i, parts, grain);
          ASSERT_EQ(range.begin, reached);
          ASSERT_GE(range.size(), 0);
          ASSERT_TRUE(range.end % grain == 0 || range.end == count);
          reached = range.end;
          smallest = std::min(smallest, range.size());
          largest = std::max(largest, range.size());
        }
        ASSERT_EQ(reached, count);
        EXPECT_LE(largest - smallest, grain) << count << " in " << parts << " by " << grain;
      }
    }
  }
}

TEST(Partition, SurvivesExtremes) {
  constexpr auto kMax = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(partition(kMax, 63, 64, 1000).end, kMax);
  EXPECT_EQ(partition(5, 0, 1, kMax).end, 5);
  EXPECT_EQ(partition(-3, 0, 2).size(), 0);
  EXPECT_EQ(partition(10, 0, 0).size(), 0);
  EXPECT_EQ(partition(10, 0, 1, 0).size(), 10);
}

class ThreadPoolSizes : public ::testing::TestWithParam<int> {};

TEST_P(ThreadPoolSizes, CallsEveryThreadOncePerJob) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.threads(), GetParam());
  std::array<int, ThreadPool::kMaxThreads>
      calls{};  // a race would be one between threads of one index
  const int jobs = GetParam() > 8 ? 200 : 5000;
  for (int job = 0; job < jobs; ++job)
    pool.run([&](int thread) { ++calls[static_cast<std::size_t>(thread)]; });
  for (int i = 0; i < ThreadPool::kMaxThreads; ++i)
    EXPECT_EQ(calls[static_cast<std::size_t>(i)], i < GetParam() ? jobs : 0) << "thread " << i;
}

TEST_P(ThreadPoolSizes, WritesOfWorkersAreSeenByTheCaller) {
  ThreadPool pool(GetParam());
  std::vector<std::int64_t> values(1000);
  for (std::int64_t round = 1; round <= 50; ++round) {
    pool.parallel_for(1000, 8, [&](Range range) {
      for (std::int64_t i = range.begin; i < range.end; ++i)
        values[static_cast<std::size_t>(i)] += round * i;
    });
  }
  for (std::int64_t i = 0; i < 1000; ++i)
    ASSERT_EQ(values[static_cast<std::size_t>(i)], i * 50 * 51 / 2);
}

INSTANTIATE_TEST_SUITE_P(Sizes, ThreadPoolSizes, ::testing::Values(1, 2, 3, 4, 16, 64));

TEST(ThreadPool, WakesWorkersThatHaveGoneToSleep) {
  ThreadPool pool(3);
  for (int i = 0; i < 30; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // far beyond the spinning
    std::atomic<int> calls{0};
    pool.run([&](int) { ++calls; });
    ASSERT_EQ(calls, 3);
  }
}

// An empty job is over before a worker that sleeps is awake.
TEST(ThreadPool, CallerTakesTheSharesOfWorkersThatHaveNotBegun) {
  ThreadPool pool(3);
  const auto caller = std::this_thread::get_id();
  int taken = 0;
  for (int i = 0; i < 200; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::array<std::thread::id, 3> ran;
    pool.run(
        [&](int thread) { ran[static_cast<std::size_t>(thread)] = std::this_thread::get_id(); });
    EXPECT_EQ(ran[0], caller);
    taken += static_cast<int>(std::ranges::count(ran, caller)) - 1;
  }
  EXPECT_GT(taken, 0);
}

TEST(ThreadPool, CallerWaitsForASlowWorker) {
  ThreadPool pool(2);
  std::array<bool, 2> done{};
  pool.run([&](int thread) {
    if (thread == 1) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    done[static_cast<std::size_t>(thread)] = true;
  });
  EXPECT_TRUE(done[0] && done[1]);
}

TEST(ThreadPool, NestedCallRunsEveryShareOnTheCaller) {
  ThreadPool pool(4);
  ThreadPool other(2);
  std::array<std::int64_t, 4> sums{};
  std::array<bool, 4> stayed{};
  pool.run([&](int outer) {
    const auto me = std::this_thread::get_id();
    const auto slot = static_cast<std::size_t>(outer);
    stayed[slot] = true;
    const auto add = [&](Range range) {
      stayed[slot] = stayed[slot] && std::this_thread::get_id() == me;
      for (std::int64_t i = range.begin; i < range.end; ++i) sums[slot] += i;
    };
    pool.parallel_for(100, 1, add);
    other.parallel_for(100, 1, add);  // another team's job from inside one must not wait either
  });
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(sums[i], 2 * 4950);
    EXPECT_TRUE(stayed[i]);
  }
  // The pool works as a team again afterwards.
  std::atomic<int> calls{0};
  pool.run([&](int) { ++calls; });
  EXPECT_EQ(calls, 4);
}

TEST(ThreadPool, SerialisesCallersFromSeveralThreads) {
  ThreadPool pool(3);
  std::int64_t total = 0;  // unprotected: only one job may run at a time
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        pool.run([&](int thread) {
          if (thread == 0) ++total;
        });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(total, 800);
}

TEST(ThreadPool, ManyPoolsComeAndGo) {
  for (int i = 0; i < 100; ++i) {
    ThreadPool pool(1 + i % 5);
    if (i % 2 == 0) pool.run([](int) {});
  }
}

// Runs a job that throws on the threads for which throws(thread) is true. Returns what came out;
// fails unless every share was called to its end or its throw before that, and the team is whole
// afterwards.
template <typename Throws>
std::string thrown_by(ThreadPool& pool, Throws throws) {
  std::atomic<int> calls{0};
  std::string message;
  try {
    pool.run([&](int thread) {
      // The thrower is first or last by turns; nothing may be left running when run() ends.
      if (!throws(thread)) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      ++calls;
      if (throws(thread)) throw std::runtime_error("thread " + std::to_string(thread));
    });
  } catch (const std::runtime_error& error) {
    message = error.what();
    EXPECT_EQ(calls, pool.threads());
  }
  // A serial pool would never get past the barrier: every share waits for all the others.
  std::atomic<int> arrived{0};
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  pool.run([&](int) {
    ++arrived;
    while (arrived < pool.threads() && std::chrono::steady_clock::now() < give_up)
      std::this_thread::yield();
    EXPECT_EQ(arrived, pool.threads());
  });
  return message;
}

TEST(ThreadPool, ThrowOnTheCallerReachesItAfterTheWorkers) {
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (int i = 0; i < 3; ++i)
      EXPECT_EQ(thrown_by(pool, [](int thread) { return thread == 0; }), "thread 0");
  }
}

TEST(ThreadPool, ThrowOnAWorkerReachesTheCaller) {
  ThreadPool pool(4);
  for (int i = 0; i < 3; ++i)
    EXPECT_EQ(thrown_by(pool, [](int thread) { return thread == 2; }), "thread 2");
}

TEST(ThreadPool, OneOfManyExceptionsReachesTheCaller) {
  ThreadPool pool(4);
  for (int i = 0; i < 50; ++i)
    EXPECT_TRUE(thrown_by(pool, [](int) { return true; }).starts_with("thread "));
  EXPECT_EQ(thrown_by(pool, [](int) { return false; }), "");
}

TEST(ThreadPool, NestedJobThatThrowsFinishesItsSharesAndStaysNested) {
  ThreadPool pool(3);
  ThreadPool other(4);
  std::array<int, 3> shares{};
  std::array<bool, 3> stayed{};
  EXPECT_THROW(pool.run([&](int outer) {
    const auto slot = static_cast<std::size_t>(outer);
    const auto nested = [&] {
      other.run([&](int inner) {
        ++shares[slot];
        if (inner == 1) throw std::runtime_error("nested");
      });
    };
    EXPECT_THROW(nested(), std::runtime_error);
    // Still inside a job: the next nested one runs here, too.
    const auto me = std::this_thread::get_id();
    stayed[slot] = true;
    other.run([&](int) { stayed[slot] = stayed[slot] && std::this_thread::get_id() == me; });
    nested();
  }),
               std::runtime_error);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(shares[i], 8);
    EXPECT_TRUE(stayed[i]);
  }
  EXPECT_EQ(thrown_by(pool, [](int) { return false; }), "");
  EXPECT_EQ(thrown_by(other, [](int) { return false; }), "");
}

TEST(ThreadPool, ParallelForPassesOnWhatAShareThrows) {
  ThreadPool pool(4);
  std::atomic<std::int64_t> done{0};
  const auto work = [&] {
    pool.parallel_for(100, 1, [&](Range range) {
      if (range.begin == 0) fail(ErrorCode::kFormat, "[part] expected more");
      done += range.size();
    });
  };
  EXPECT_EQ(testing::error_of(work), "[part] expected more");
  EXPECT_EQ(done, 75);
}

TEST(ThreadPool, RefusesImpossibleSizes) {
  for (const int threads : {-1, 0, 65, 1 << 30}) {
    EXPECT_NE(testing::error_of([&] { ThreadPool pool(threads); }).find("expected 1 to 64 threads"),
              std::string::npos);
  }
}

TEST(DefaultThreads, IsWithinTheMachine) {
  EXPECT_GE(default_threads(), 1);
  EXPECT_LE(default_threads(), ThreadPool::kMaxThreads);
  EXPECT_LE(default_threads(), static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
}

}  // namespace
}  // namespace tandem
