// What this machine is capable of, measured: the bounds that every speed is printed with.
#pragma once

#include <string>

#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace tandem {

struct Peaks {
  double int8_gops =
      0;  // 10^9 int8 operations a second (2 per multiply-add), registers only, all threads
  double read_gbps = 0;      // 10^9 bytes a second read from memory by all threads
  std::string int8_kernels;  // the table whose loop gave int8_gops
};

// Takes about a second: the best of several short runs of each.
Peaks measure_peaks(const Kernels& kernels, ThreadPool& pool);

}  // namespace tandem
