// Choosing the next token from logits, with the semantics of ONNX Runtime GenAI.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "text/tokenizer/tokenizer.h"

namespace tandem {

struct SearchOptions {
  bool do_sample = false;   // false: greedy
  float temperature = 1;    // > 0
  std::int64_t top_k = 50;  // 0: all
  float top_p = 1;          // (0, 1]; 1: all
  float repetition_penalty =
      1;  // > 0; each distinct id of the whole sequence: score < 0 ? score * p : score / p
  std::int64_t min_length = 0;    // tokens, prompt included, before which no end token is chosen
  std::int64_t max_length = 0;    // tokens, prompt included; 0: the model's context length
  std::int64_t seed = -1;         // -1: from the system
  std::vector<std::int64_t> eos;  // tokens that end the answer; empty: the model's
};

// Throws kInvalidArgument naming the option.
void validate(const SearchOptions& options);

class Search {
 public:
  explicit Search(SearchOptions options);

  // The next token after `sequence`, from its last row of logits, [vocabulary]. Equal logits: the
  // lowest id. A logit that is not a number is an error (kInternal).
  TokenId choose(std::span<const float> logits, std::span<const TokenId> sequence);

  const SearchOptions& options() const noexcept { return options_; }

 private:
  TokenId sample(std::vector<float>& scores);

  SearchOptions options_;
  std::mt19937_64 random_;
  std::vector<float> scores_;
  std::vector<std::int32_t> order_;
};

}  // namespace tandem
