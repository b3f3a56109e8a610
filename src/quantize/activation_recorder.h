// Statistics of a matrix of activations that is seen piece by piece: maxima and a histogram.
#pragma once

#include <cstdint>
#include <vector>

#include "base/thread_pool.h"
#include "quantize/calibration.h"

namespace tandem {

// Location of a non-finite value.
struct BadActivation {
  // Row in the piece; -1: all values are finite.
  std::int64_t row = -1;
  std::int64_t channel = -1;
  float value = 0;
};

class ActivationRecorder {
 public:
  // Threads record separately and are merged at the end, so that results don't depend on their
  // number. `with_shadows`: statistics() gives shadow_options, which takes a histogram of each
  // channel (2 KiB).
  ActivationRecorder(std::int64_t channels, int threads, bool with_shadows = false);

  // Records rows [rows, channels]. Stops at the first value that is NaN or infinite and returns its
  // location.
  BadActivation record(const float* x, std::int64_t rows, ThreadPool& pool);

  // 99.9 % of all values seen are at most `percentile` in magnitude; it is accurate to one part in
  // 128 and never exceeds the maximum. All statistics are zero before the first record().
  InputStatistics statistics() const;

 private:
  struct PerThread {
    std::vector<float> channel_max;
    // Indexed by the upper 15 bits of the magnitude.
    std::vector<std::uint64_t> histogram;
  };
  void record_channels(const float* x, std::int64_t rows, ThreadPool& pool);
  std::vector<ShadowOption> shadow_options(const InputStatistics& statistics) const;

  std::int64_t channels_;
  std::vector<PerThread> threads_;
  // [channels, bins], of an eighth of an octave each; empty unless shadow_options are wanted. A
  // thread counts some channels.
  std::vector<std::uint32_t> by_channel_;
};

}  // namespace tandem
