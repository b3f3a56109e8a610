// What this machine is capable of, measured: the bounds that every speed is printed with.
#pragma once

#include <string>

#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace tandem {

struct Peaks {
  // 10^9 int8 operations a second (2 per multiply-add), registers only, all threads: of the kernels
  // in use, and of the fastest that use vectors alone. The two differ where the processor has a
  // matrix unit.
  double int8_gops = 0;
  double int8_vector_gops = 0;
  double read_gbps = 0;      // 10^9 bytes a second read from memory by all threads
  std::string int8_kernels;  // the table whose loop gave int8_gops
};

// 10^9 int8 operations a second of one table's densest loop; the best of several short runs.
double measure_int8_gops(const Kernels& kernels, ThreadPool& pool);

// Takes about a second: the best of several short runs of each.
Peaks measure_peaks(const Kernels& kernels, ThreadPool& pool);

}  // namespace tandem
