// A fixed team of threads that runs one job at a time with static partitioning: no allocation per
// call, and no lock except the one that serialises callers.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace tandem {

struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const noexcept { return end - begin; }
};

// Part `index` of [0, count) split into `parts` contiguous ranges whose sizes differ by at most one
// `grain`; every boundary but the last is a multiple of `grain`.
Range partition(std::int64_t count, int index, int parts, std::int64_t grain = 1) noexcept;

class ThreadPool {
 public:
  static constexpr int kMaxThreads = 64;

  // threads in [1, 64]; the calling thread is thread 0, so threads - 1 are started. Workers spin
  // for about 50 microseconds between jobs (a decode step has hundreds of short jobs), then sleep
  // on a futex. A caller whose own share is done takes those that no worker has begun.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const noexcept { return threads_; }

  // Calls job(thread) once for each thread, usually on that thread, and returns when all have
  // finished. Concurrent callers are serialised; a call from inside a job runs its shares one after
  // the other on the calling thread. A share that throws does not stop the others: once all have
  // finished, the first exception is rethrown, the others are dropped, and the pool stays usable.
  template <typename Job>
  void run(Job&& job) {
    run_erased([](void* object,
                  int thread) { (*static_cast<std::remove_reference_t<Job>*>(object))(thread); },
               const_cast<void*>(static_cast<const void*>(&job)));
  }

  // Calls job(Range) on each thread's share of [0, count); exceptions as in run().
  template <typename Job>
  void parallel_for(std::int64_t count, std::int64_t grain, Job&& job) {
    run([&](int thread) {
      const Range range = partition(count, thread, threads_, grain);
      if (range.size() > 0) job(range);
    });
  }

 private:
  void run_erased(void (*function)(void*, int), void* object);

  struct State;
  int threads_;
  std::unique_ptr<State> state_;
};

// The default number of threads: the physical cores this process may run on, within its CPU quota.
int default_threads() noexcept;

}  // namespace tandem
