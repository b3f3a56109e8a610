// What the machine can do, measured: the bounds that speeds of kernels are compared with.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace tandem::bench {

// Processor time of the calling thread in seconds. Speeds are taken from it, and from the shortest
// of several runs, so that other work on the machine disturbs them little.
double thread_seconds();

// Seconds that the slowest thread of `pool` needs for its share, job(thread).
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
