// Measured peaks of the machine: the bounds that kernel speeds are compared with.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace tandem::bench {

// CPU time of the calling thread in seconds. Speeds are based on it, and on the shortest of several
// runs, to reduce the influence of other work on the machine.
double thread_seconds();

// The time in seconds that the slowest thread of `pool` takes for its share, job(thread).
template <typename Job>
double slowest_thread(ThreadPool& pool, Job&& job) {
  double seconds[ThreadPool::kMaxThreads] = {};
  pool.run([&](int thread) {
    const double start = thread_seconds();
    job(thread);
    seconds[thread] = thread_seconds() - start;
  });
  return *std::max_element(seconds, seconds + pool.threads());
}

double int8_peak(ThreadPool& pool,
                 const Kernels& table);  // operations per second, 2 per multiply-add
double float_peak(ThreadPool& pool);     // the same of float32; 0 where there is no AVX2
double memory_reads(ThreadPool& pool);   // bytes per second

}  // namespace tandem::bench
