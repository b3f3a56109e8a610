// Per-thread maxima and histograms, and the statistics derived from them.
#include "quantize/activation_recorder.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/merge_sort.h"

namespace tandem {
namespace {

// A float without its sign has 8 exponent bits and 23 fraction bits. Its upper 15 bits are the bin
// number: bins grow with the value, have a width of 1/128 of it, and need no range known in
// advance.
constexpr int kDroppedBits = 16;
constexpr std::size_t kBins = std::size_t{1} << 15;
constexpr std::uint32_t kInfinityBin = 0x7F80;

constexpr std::uint32_t bin_of(float x) noexcept {
  return (std::bit_cast<std::uint32_t>(x) & 0x7FFF'FFFFU) >> kDroppedBits;
}

float upper_edge(std::size_t bin) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bin + 1) << kDroppedBits);
}

// The bound b of symmetric int8 (steps of b / 127) with the least squared error over the histogram:
// values beyond b are clipped to it, values within have a uniformly distributed rounding error,
// values under half a step become 0. Tries bounds from the maximum down in steps of an eighth of an
// octave: with outliers a lower bound is better.
float least_error_bound(const std::vector<std::uint64_t>& histogram, float max) {
  constexpr int kCandidates = 64;
  double best_error = std::numeric_limits<double>::infinity();
  float best = max;
  for (int i = 0; i < kCandidates; ++i) {
    const float bound = max * std::exp2(-static_cast<float>(i) / 8);
    const double step = static_cast<double>(bound) / 127;
    double error = 0;
    for (std::size_t bin = 0; bin < kInfinityBin; ++bin) {
      if (histogram[bin] == 0) continue;
      const double x = std::min(upper_edge(bin), max);
      const double off = x > bound ? x - bound : x < step / 2 ? x : step / std::sqrt(12.0);
      error += static_cast<double>(histogram[bin]) * off * off;
    }
    if (error < best_error) {
      best_error = error;
      best = bound;
    }
  }
  return best;
}

// The same for single channels, coarser: 3 fraction bits, from 2^-32 to 2^32, beyond which values
// count as if they were there.
constexpr int kDroppedBitsOfChannel = 20;
constexpr std::size_t kChannelBins = 512;
constexpr std::int32_t kFirstChannelBin = (127 - 32) * 8;

std::size_t channel_bin_of(float x) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(x) & 0x7FFF'FFFFU;
  const auto bin = static_cast<std::int32_t>(bits >> kDroppedBitsOfChannel) - kFirstChannelBin;
  return static_cast<std::size_t>(std::clamp(bin, 0, static_cast<std::int32_t>(kChannelBins) - 1));
}

float middle_of_channel_bin(std::size_t bin) noexcept {
  const auto edge = [](std::size_t i) {
    return std::bit_cast<float>((static_cast<std::uint32_t>(i) + kFirstChannelBin)
                                << kDroppedBitsOfChannel);
  };
  return (edge(bin) + edge(bin + 1)) / 2;
}

using ChannelHistogram = std::vector<std::uint64_t>;

// At least one in eight channels is not hot, and a hundred are more than outliers.
constexpr std::int64_t kMostHot = 128;
constexpr std::int64_t kLeastColdPerHot = 8;

// The bound with the least squared error as above, over channels that clip and hot ones, whose values
// beyond the bound have no error.
ShadowOption least_error_option(const ChannelHistogram& cold, const ChannelHistogram& hot,
                                float cold_max) {
  constexpr int kCandidates = 64;
  std::uint64_t count = 0;
  for (std::size_t bin = 0; bin < kChannelBins; ++bin) count += cold[bin] + hot[bin];
  double least = std::numeric_limits<double>::infinity();
  ShadowOption best;
  for (int i = 0; i < kCandidates; ++i) {
    const float bound = cold_max * std::exp2(-static_cast<float>(i) / 8);
    const double step = static_cast<double>(bound) / 127;
    double error = 0;
    for (std::size_t bin = 0; bin < kChannelBins; ++bin) {
      const double x = middle_of_channel_bin(bin);
      const double rounding = x < step / 2 ? x : step / std::sqrt(12.0);
      const double clipping = x - bound;
      error +=
          static_cast<double>(cold[bin]) * (x > bound ? clipping * clipping : rounding * rounding);
      if (x <= bound) error += static_cast<double>(hot[bin]) * rounding * rounding;
    }
    if (error >= least) continue;
    least = error;
    best.bound = bound;
    best.error = static_cast<float>(error / static_cast<double>(std::max<std::uint64_t>(1, count)));
  }
  return best;
}

BadActivation find_bad(const float* x, std::int64_t rows, std::int64_t channels) noexcept {
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t c = 0; c < channels; ++c)
      if (const float value = x[row * channels + c]; !std::isfinite(value)) return {row, c, value};
  return {};
}

}  // namespace

ActivationRecorder::ActivationRecorder(std::int64_t channels, int threads, bool with_shadows)
    : channels_(channels), threads_(static_cast<std::size_t>(threads)) {
  if (with_shadows) by_channel_.assign(static_cast<std::size_t>(channels) * kChannelBins, 0);
  for (PerThread& thread : threads_) {
    thread.channel_max.assign(static_cast<std::size_t>(channels), 0.0F);
    thread.histogram.assign(kBins, 0);
  }
}

BadActivation ActivationRecorder::record(const float* x, std::int64_t rows, ThreadPool& pool) {
  const int parts = static_cast<int>(threads_.size());
  pool.run([&](int index) {
    if (index >= parts) return;
    PerThread& thread = threads_[static_cast<std::size_t>(index)];
    const Range range = partition(rows, index, std::min(parts, pool.threads()));
    for (std::int64_t row = range.begin; row < range.end; ++row) {
      const float* values = x + row * channels_;
      for (std::size_t c = 0; c < static_cast<std::size_t>(channels_); ++c) {
        const float magnitude = std::fabs(values[c]);
        thread.channel_max[c] =
            magnitude > thread.channel_max[c] ? magnitude : thread.channel_max[c];
      }
      for (std::size_t c = 0; c < static_cast<std::size_t>(channels_); ++c)
        ++thread.histogram[bin_of(values[c])];
    }
  });
  if (!by_channel_.empty()) record_channels(x, rows, pool);
  const bool finite = std::all_of(threads_.begin(), threads_.end(), [](const PerThread& thread) {
    return std::all_of(thread.histogram.begin() + kInfinityBin, thread.histogram.end(),
                       [](std::uint64_t count) { return count == 0; });
  });
  return finite ? BadActivation{} : find_bad(x, rows, channels_);
}

void ActivationRecorder::record_channels(const float* x, std::int64_t rows, ThreadPool& pool) {
  pool.run([&](int index) {
    const Range range = partition(channels_, index, pool.threads());
    for (std::int64_t row = 0; row < rows; ++row)
      for (std::int64_t c = range.begin; c < range.end; ++c)
        ++by_channel_[static_cast<std::size_t>(c) * kChannelBins +
                      channel_bin_of(x[row * channels_ + c])];
  });
}

std::vector<ShadowOption> ActivationRecorder::shadow_options(
    const InputStatistics& statistics) const {
  std::vector<std::size_t> order(static_cast<std::size_t>(channels_));
  std::iota(order.begin(), order.end(), 0);
  const std::vector<float>& largest = statistics.channel_max;
  merge_sort(order, [&](std::size_t a, std::size_t b) { return largest[a] > largest[b]; });
  ChannelHistogram cold(kChannelBins, 0), hot(kChannelBins, 0);
  for (std::size_t i = 0; i < by_channel_.size(); ++i) cold[i % kChannelBins] += by_channel_[i];
  std::vector<ShadowOption> options;
  const std::int64_t most = std::min(kMostHot, channels_ / kLeastColdPerHot);
  std::int64_t moved = 0;
  for (std::int64_t wanted = 0; wanted <= most; wanted = std::max<std::int64_t>(1, 2 * wanted)) {
    for (; moved < wanted; ++moved) {
      const std::size_t first = order[static_cast<std::size_t>(moved)] * kChannelBins;
      for (std::size_t bin = 0; bin < kChannelBins; ++bin) {
        cold[bin] -= by_channel_[first + bin];
        hot[bin] += by_channel_[first + bin];
      }
    }
    options.push_back(
        least_error_option(cold, hot, largest[order[static_cast<std::size_t>(wanted)]]));
    options.back().hot = wanted;
  }
  return options;
}

InputStatistics ActivationRecorder::statistics() const {
  InputStatistics result;
  result.channel_max.assign(static_cast<std::size_t>(channels_), 0.0F);
  std::vector<std::uint64_t> histogram(kBins, 0);
  for (const PerThread& thread : threads_) {
    for (std::size_t c = 0; c < result.channel_max.size(); ++c)
      result.channel_max[c] = std::max(result.channel_max[c], thread.channel_max[c]);
    for (std::size_t bin = 0; bin < kBins; ++bin) histogram[bin] += thread.histogram[bin];
  }
  for (const float value : result.channel_max) result.max = std::max(result.max, value);
  std::uint64_t count = 0;
  for (const std::uint64_t in_bin : histogram) count += in_bin;
  // The rank of the 99.9th percentile, rounded up: at least that many values must be at or below
  // it.
  const std::uint64_t rank = count - count / 1000;
  std::uint64_t below = 0;
  for (std::size_t bin = 0; bin < kBins && below < rank; ++bin) {
    below += histogram[bin];
    if (below >= rank) result.percentile = std::min(upper_edge(bin), result.max);
  }
  result.least_error = least_error_bound(histogram, result.max);
  if (!by_channel_.empty()) result.shadow_options = shadow_options(result);
  return result;
}

}  // namespace tandem
