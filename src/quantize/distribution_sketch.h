// The distribution of values that are seen once, in bounded memory.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem {

// Exact as long as there are at most kExactValues; from then on a histogram, whose quantiles are
// too large in magnitude by less than one part in 128. Extrema, mean and standard deviation are
// exact but for the rounding of doubles.
class DistributionSketch {
 public:
  static constexpr std::size_t kExactValues = std::size_t{1} << 16;

  // False, with nothing added, if a value is NaN or infinite.
  bool add(std::span<const float> values);

  std::int64_t count() const noexcept { return count_; }
  // All of these are 0 before the first value.
  float min() const noexcept { return min_; }
  float max() const noexcept { return max_; }
  float max_magnitude() const noexcept { return max_ > -min_ ? max_ : -min_; }
  double mean() const noexcept;
  double standard_deviation() const noexcept;

  // The value, or the magnitude, that stands at `rank`, counted from 0, once all are sorted.
  // Requires a rank in [0, count()).
  float value_at(std::int64_t rank) const;
  float magnitude_at(std::int64_t rank) const;

 private:
  void count_in_bins(std::span<const float> values);

  std::int64_t count_ = 0;
  float min_ = 0, max_ = 0;
  double sum_ = 0, squares_ = 0;
  // Either all values, or bins by the upper bits of a float, sign included.
  std::vector<float> values_;
  std::vector<std::uint64_t> bins_;
};

}  // namespace tandem
