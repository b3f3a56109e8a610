// Greedy choice, and sampling with temperature, top-k and top-p.
#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace tandem {
namespace {

TokenId highest(std::span<const float> scores) {
  return static_cast<TokenId>(std::max_element(scores.begin(), scores.end()) - scores.begin());
}

void require_finite(float max, const char* purpose) {
  if (!std::isfinite(max)) {
    fail(ErrorCode::kInternal, "[search] the highest score is {}: expected a finite one {}", max,
         purpose);
  }
}

}  // namespace

// Subtracting the highest score keeps every exponential in [0, 1].
float log_probability(std::span<const float> scores, TokenId id) {
  const float max = scores[static_cast<std::size_t>(highest(scores))];
  require_finite(max, "for a log-probability");
  double total = 0;
  for (const float score : scores) total += std::exp(static_cast<double>(score) - max);
  const double logarithm =
      static_cast<double>(scores[static_cast<std::size_t>(id)]) - max - std::log(total);
  constexpr double kLowest = std::numeric_limits<float>::lowest();
  return static_cast<float>(std::max(logarithm, kLowest));
}

Sampler::Sampler(const SearchOptions& options)
    : do_sample_(options.do_sample),
      with_log_probability_(options.with_log_probability),
      temperature_(options.temperature),
      top_k_(options.top_k),
      top_p_(options.top_p),
      min_p_(options.min_p) {
  random_.seed(options.seed >= 0 ? static_cast<std::uint64_t>(options.seed)
                                 : std::random_device{}());
}

Choice Sampler::choose(std::span<const float> scores) {
  if (scores.empty())
    fail(ErrorCode::kInternal, "[search] scores: expected one per token of the vocabulary, got 0");
  Choice choice;
  choice.id = do_sample_ ? sample(scores) : highest(scores);
  if (with_log_probability_) choice.log_probability = log_probability(scores, choice.id);
  return choice;
}

TokenId Sampler::sample(std::span<const float> scores) {
  const auto vocabulary = static_cast<std::int64_t>(scores.size());
  order_.resize(scores.size());
  std::iota(order_.begin(), order_.end(), 0);
  const auto better = [&](TokenId a, TokenId b) {
    const float sa = scores[static_cast<std::size_t>(a)];
    const float sb = scores[static_cast<std::size_t>(b)];
    return sa != sb ? sa > sb : a < b;
  };
  std::int64_t kept = top_k_ > 0 ? std::min(top_k_, vocabulary) : vocabulary;
  if (kept < vocabulary)
    std::nth_element(order_.begin(), order_.begin() + kept, order_.end(), better);
  order_.resize(static_cast<std::size_t>(kept));
  std::sort(order_.begin(), order_.end(), better);

  const float max = scores[static_cast<std::size_t>(order_.front())];
  require_finite(max, "to sample");
  weights_.resize(order_.size());
  double total = 0;
  for (std::size_t i = 0; i < order_.size(); ++i) {
    const float score = scores[static_cast<std::size_t>(order_[i])];
    total += weights_[i] = std::exp(static_cast<double>(score - max) / temperature_);
  }
  if (top_p_ < 1) {
    double sum = 0;
    kept = 0;
    while (kept < static_cast<std::int64_t>(order_.size()) && sum < top_p_ * total) {
      sum += weights_[static_cast<std::size_t>(kept++)];
    }
    total = sum;
  }
  // The likeliest has the weight 1.
  while (kept > 1 && weights_[static_cast<std::size_t>(kept - 1)] < min_p_)
    total -= weights_[static_cast<std::size_t>(--kept)];

  // 53 random bits in [0, 1), reproducible on every system (unlike std::uniform_real_distribution).
  double left = static_cast<double>(random_() >> 11) * 0x1.0p-53 * total;
  for (std::int64_t i = 0; i < kept; ++i) {
    left -= weights_[static_cast<std::size_t>(i)];
    if (left < 0) return order_[static_cast<std::size_t>(i)];
  }
  return order_[static_cast<std::size_t>(kept - 1)];
}

}  // namespace tandem
