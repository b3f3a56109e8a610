// Bins by the bits of a float: no range has to be known in advance.
#include "quantize/distribution_sketch.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace tandem {
namespace {

// Of a float's 32 bits the upper 16 are kept: sign, 8 bits of exponent, 7 of fraction. So a bin is
// 1/128 of its values wide, at most.
constexpr int kDroppedBits = 16;
constexpr std::size_t kBins = std::size_t{1} << 16;
constexpr std::size_t kSign = kBins / 2;

std::size_t bin_of(float x) noexcept { return std::bit_cast<std::uint32_t>(x) >> kDroppedBits; }

// The largest magnitude of a bin of either sign.
float edge(std::size_t bin) noexcept {
  const auto bits = static_cast<std::uint32_t>(bin % kSign);
  return std::bit_cast<float>((bits << kDroppedBits) | ((1U << kDroppedBits) - 1));
}

}  // namespace

bool DistributionSketch::add(std::span<const float> values) {
  if (!std::ranges::all_of(values, [](float x) { return std::isfinite(x); })) return false;
  if (values.empty()) return true;
  const auto [low, high] = std::ranges::minmax(values);
  min_ = count_ == 0 ? low : std::min(min_, low);
  max_ = count_ == 0 ? high : std::max(max_, high);
  for (const float x : values) {
    sum_ += x;
    squares_ += static_cast<double>(x) * x;
  }
  count_ += std::ssize(values);
  if (bins_.empty() && values_.size() + values.size() <= kExactValues) {
    values_.insert(values_.end(), values.begin(), values.end());
    return true;
  }
  if (bins_.empty()) {
    bins_.assign(kBins, 0);
    count_in_bins(values_);
    values_ = {};
  }
  count_in_bins(values);
  return true;
}

void DistributionSketch::count_in_bins(std::span<const float> values) {
  for (const float x : values) ++bins_[bin_of(x)];
}

double DistributionSketch::mean() const noexcept {
  return count_ == 0 ? 0 : sum_ / static_cast<double>(count_);
}

double DistributionSketch::standard_deviation() const noexcept {
  if (count_ == 0) return 0;
  const double average = mean();
  return std::sqrt(std::max(0.0, squares_ / static_cast<double>(count_) - average * average));
}

float DistributionSketch::value_at(std::int64_t rank) const {
  if (bins_.empty()) {
    std::vector<float> sorted = values_;
    std::ranges::nth_element(sorted, sorted.begin() + rank);
    return sorted[static_cast<std::size_t>(rank)];
  }
  // From the most negative bin up, and then on among those from 0 up.
  auto below = static_cast<std::uint64_t>(rank);
  for (std::size_t i = 0; i < kBins; ++i) {
    const bool negative = i < kSign;
    const std::size_t bin = negative ? kBins - 1 - i : i - kSign;
    if (below < bins_[bin]) return std::clamp(negative ? -edge(bin) : edge(bin), min_, max_);
    below -= bins_[bin];
  }
  return max_;
}

float DistributionSketch::magnitude_at(std::int64_t rank) const {
  if (bins_.empty()) {
    std::vector<float> sorted(values_.size());
    std::ranges::transform(values_, sorted.begin(), [](float x) { return std::fabs(x); });
    std::ranges::nth_element(sorted, sorted.begin() + rank);
    return sorted[static_cast<std::size_t>(rank)];
  }
  auto below = static_cast<std::uint64_t>(rank);
  for (std::size_t bin = 0; bin < kSign; ++bin) {
    const std::uint64_t both = bins_[bin] + bins_[bin + kSign];
    if (below < both) return std::min(edge(bin), max_magnitude());
    below -= both;
  }
  return max_magnitude();
}

}  // namespace tandem
