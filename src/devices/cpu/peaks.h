// Measured peaks of this machine: the bounds that speeds are reported against.
#pragma once

#include <string>

#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace tandem {

struct Peaks {
  // 10^9 int8 operations per second (2 per multiply-add) from registers, on all threads: of the
  // selected kernels, and of the fastest ones that use only vector units. The two differ if the
  // processor has a matrix unit.
  double int8_gops = 0;
  double int8_vector_gops = 0;
  // 10^9 bytes per second read from memory by all threads.
  double read_gbps = 0;
  // The kernel table whose loop int8_gops was measured with.
  std::string int8_kernels;
};

// 10^9 int8 operations per second in a table's densest loop; the best of several short runs.
double measure_int8_gops(const Kernels& kernels, ThreadPool& pool);

// Takes about a second: the best of several short runs of each measurement.
Peaks measure_peaks(const Kernels& kernels, ThreadPool& pool);

}  // namespace tandem
