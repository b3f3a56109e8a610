#include "runtime/search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <unordered_set>

#include "base/error.h"

namespace tandem {
namespace {

TokenId highest(std::span<const float> scores) {
  return static_cast<TokenId>(std::max_element(scores.begin(), scores.end()) - scores.begin());
}

}  // namespace

void validate(const SearchOptions& options) {
  const auto require = [](bool ok, const char* name, const char* expected, double got) {
    if (!ok)
      fail(ErrorCode::kInvalidArgument, "[search] {}: expected {}, got {}", name, expected, got);
  };
  require(options.temperature > 0 && std::isfinite(options.temperature), "temperature",
          "a number above 0", options.temperature);
  require(options.top_k >= 0, "top_k", "0 or more", static_cast<double>(options.top_k));
  require(options.top_p > 0 && options.top_p <= 1, "top_p", "a number in (0, 1]", options.top_p);
  require(options.repetition_penalty > 0 && std::isfinite(options.repetition_penalty),
          "repetition_penalty", "a number above 0", options.repetition_penalty);
  require(options.min_length >= 0, "min_length", "0 or more",
          static_cast<double>(options.min_length));
  require(options.max_length >= 0, "max_length", "0 or more",
          static_cast<double>(options.max_length));
}

Search::Search(SearchOptions options) : options_(std::move(options)) {
  validate(options_);
  random_.seed(options_.seed >= 0 ? static_cast<std::uint64_t>(options_.seed)
                                  : std::random_device{}());
}

TokenId Search::choose(std::span<const float> logits, std::span<const TokenId> sequence) {
  if (std::any_of(logits.begin(), logits.end(), [](float x) { return std::isnan(x); })) {
    fail(ErrorCode::kInternal, "[search] a logit is not a number after {} tokens", sequence.size());
  }
  const bool too_short = static_cast<std::int64_t>(sequence.size()) < options_.min_length;
  if (!options_.do_sample && !too_short && options_.repetition_penalty == 1) return highest(logits);

  scores_.assign(logits.begin(), logits.end());
  if (too_short) {
    for (const std::int64_t id : options_.eos) {
      if (id >= 0 && id < static_cast<std::int64_t>(scores_.size())) {
        scores_[static_cast<std::size_t>(id)] = std::numeric_limits<float>::lowest();
      }
    }
  }
  if (options_.repetition_penalty != 1) {
    for (const TokenId id : std::unordered_set<TokenId>(sequence.begin(), sequence.end())) {
      float& score = scores_[static_cast<std::size_t>(id)];
      score = score < 0 ? score * options_.repetition_penalty : score / options_.repetition_penalty;
    }
  }
  return options_.do_sample ? sample(scores_) : highest(scores_);
}

// Top-k first, then the softmax over what is left at the temperature, then the smallest prefix
// whose sum reaches top-p.
TokenId Search::sample(std::vector<float>& scores) {
  const auto vocabulary = static_cast<std::int64_t>(scores.size());
  order_.resize(scores.size());
  std::iota(order_.begin(), order_.end(), 0);
  const auto better = [&](std::int32_t a, std::int32_t b) {
    const float sa = scores[static_cast<std::size_t>(a)];
    const float sb = scores[static_cast<std::size_t>(b)];
    return sa != sb ? sa > sb : a < b;
  };
  std::int64_t kept = options_.top_k > 0 ? std::min(options_.top_k, vocabulary) : vocabulary;
  if (kept < vocabulary)
    std::nth_element(order_.begin(), order_.begin() + kept, order_.end(), better);
  order_.resize(static_cast<std::size_t>(kept));
  std::sort(order_.begin(), order_.end(), better);

  const float max = scores[static_cast<std::size_t>(order_.front())];
  if (!std::isfinite(max)) {
    fail(ErrorCode::kInternal, "[search] the highest score is {}: expected a finite one to sample",
         max);
  }
  std::vector<double> probability(order_.size());
  double total = 0;
  for (std::size_t i = 0; i < order_.size(); ++i) {
    const float score = scores[static_cast<std::size_t>(order_[i])];
    total += probability[i] = std::exp(static_cast<double>(score - max) / options_.temperature);
  }
  if (options_.top_p < 1) {
    double sum = 0;
    kept = 0;
    while (kept < static_cast<std::int64_t>(order_.size()) && sum < options_.top_p * total) {
      sum += probability[static_cast<std::size_t>(kept++)];
    }
    total = sum;
  } else {
    kept = static_cast<std::int64_t>(order_.size());
  }

  // 53 random bits in [0, 1), the same on every system (std::uniform_real_distribution is not).
  double left = static_cast<double>(random_() >> 11) * 0x1.0p-53 * total;
  for (std::int64_t i = 0; i < kept; ++i) {
    left -= probability[static_cast<std::size_t>(i)];
    if (left < 0) return order_[static_cast<std::size_t>(i)];
  }
  return order_[static_cast<std::size_t>(kept - 1)];
}

}  // namespace tandem
