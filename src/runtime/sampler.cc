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

// The softmax of scores. Subtracting the highest keeps every exponential in [0, 1].
class Softmax {
 public:
  explicit Softmax(std::span<const float> scores)
      : max_(scores[static_cast<std::size_t>(highest(scores))]) {
    require_finite(max_, "for a log-probability");
    double total = 0;
    for (const float score : scores) total += std::exp(static_cast<double>(score) - max_);
    log_total_ = std::log(total);
  }
  float log_probability(float score) const {
    constexpr double kLowest = std::numeric_limits<float>::lowest();
    return static_cast<float>(std::max(static_cast<double>(score) - max_ - log_total_, kLowest));
  }

 private:
  float max_;
  double log_total_ = 0;
};

// Makes `order` the `count` tokens with the highest scores, in order, with ties going to lower ids.
void rank(std::span<const float> scores, std::int64_t count, std::vector<TokenId>& order) {
  order.resize(scores.size());
  std::iota(order.begin(), order.end(), 0);
  const auto better = [&](TokenId a, TokenId b) {
    const float sa = scores[static_cast<std::size_t>(a)];
    const float sb = scores[static_cast<std::size_t>(b)];
    return sa != sb ? sa > sb : a < b;
  };
  if (count < static_cast<std::int64_t>(scores.size())) {
    std::nth_element(order.begin(), order.begin() + count, order.end(), better);
    order.resize(static_cast<std::size_t>(count));
  }
  std::sort(order.begin(), order.end(), better);
}

}  // namespace

float log_probability(std::span<const float> scores, TokenId id) {
  return Softmax(scores).log_probability(scores[static_cast<std::size_t>(id)]);
}

Sampler::Sampler(const SearchOptions& options)
    : do_sample_(options.do_sample),
      logprobs_(options.logprobs),
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
  if (!logprobs_) return choice;
  const Softmax softmax(scores);
  const auto with_probability = [&](TokenId id) {
    return TokenProbability{id, softmax.log_probability(scores[static_cast<std::size_t>(id)])};
  };
  static_cast<TokenProbability&>(choice) = with_probability(choice.id);
  if (*logprobs_ == 0) return choice;
  rank(scores, *logprobs_, order_);
  for (const TokenId id : order_) choice.likeliest.push_back(with_probability(id));
  return choice;
}

TokenId Sampler::sample(std::span<const float> scores) {
  const auto vocabulary = static_cast<std::int64_t>(scores.size());
  std::int64_t kept = top_k_ > 0 ? std::min(top_k_, vocabulary) : vocabulary;
  rank(scores, kept, order_);

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
    while (kept == 0 || (kept < static_cast<std::int64_t>(order_.size()) && sum < top_p_ * total)) {
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
