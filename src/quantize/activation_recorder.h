// Statistics of one matrix of activations that is seen piece by piece: largest values and a
// histogram.
#pragma once

#include <cstdint>
#include <vector>

#include "base/thread_pool.h"
#include "quantize/calibration.h"

namespace tandem {

// Where a value that is not finite was found.
struct BadActivation {
  std::int64_t row = -1;  // of the piece; -1: all values are finite
  std::int64_t channel = -1;
  float value = 0;
};

class ActivationRecorder {
 public:
  // Threads record apart and are joined at the end, so that results don't depend on their number.
  ActivationRecorder(std::int64_t channels, int threads);

  // Takes in rows [rows, channels]. Stops at the first value that is NaN or infinite and says where
  // it is.
  BadActivation record(const float* x, std::int64_t rows, ThreadPool& pool);

  // 99.9 % of all values seen are at most `percentile` in magnitude; it is exact to a part in 128
  // and never beyond the maximum. All zero before any record().
  InputStatistics statistics() const;

 private:
  struct PerThread {
    std::vector<float> channel_max;
    std::vector<std::uint64_t> histogram;  // by the upper 15 bits of the magnitude
  };
  std::int64_t channels_;
  std::vector<PerThread> threads_;
};

}  // namespace tandem
