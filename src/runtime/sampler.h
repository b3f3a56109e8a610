// Chooses a token from a vocabulary of scores: the highest, or one drawn at random, with its
// log-probability.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "runtime/search_options.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem {

struct TokenProbability {
  TokenId id = 0;
  // As log_probability() computes it.
  float log_probability = std::numeric_limits<float>::quiet_NaN();
};

// A token; its log-probability is NaN unless requested in the options.
struct Choice : TokenProbability {
  // As many of the likeliest tokens as the options request, in order, with ties going to lower ids.
  std::vector<TokenProbability> likeliest;
};

// The natural logarithm of a token's probability in the softmax of the scores, [vocabulary]: at
// temperature 1 and over the whole vocabulary, whatever temperature, top-k and top-p the token was
// drawn with, so that the values of two answers are comparable. Servers report it as `logprobs`. If
// the scores went through processors, it is based on their output. At least the lowest float.
// Throws kInternal if the highest score is not finite. `id` must be in the vocabulary.
float log_probability(std::span<const float> scores, TokenId id);

class Sampler {
 public:
  // Uses do_sample, temperature, top_k, top_p, min_p, seed and logprobs of options that
  // pass validate().
  explicit Sampler(const SearchOptions& options);

  // Greedy: the highest score, with ties going to the lowest id. Sampling: the top_k highest (ties
  // going to lower ids), the softmax over them at the temperature, the smallest prefix of it whose
  // sum reaches top_p, without what is below min_p of the likeliest, and a draw from the rest; one
  // random number per choice. Scores, [vocabulary], must not be NaN. Throws kInternal if there are
  // no scores, and, when sampling or computing a log-probability, if the highest score is not
  // finite.
  Choice choose(std::span<const float> scores);

 private:
  TokenId sample(std::span<const float> scores);

  bool do_sample_;
  std::optional<std::int64_t> logprobs_;
  double temperature_;
  std::int64_t top_k_;
  float top_p_;
  float min_p_;
  std::mt19937_64 random_;
  // Kept between calls to avoid allocation: the tokens left by top-k in order of probability, and
  // the unnormalized probability of each.
  std::vector<TokenId> order_;
  std::vector<double> weights_;
};

}  // namespace tandem
