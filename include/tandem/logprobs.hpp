// The log-probabilities of an answer's tokens.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tandem {

struct TokenLogprob {
  std::int32_t id = 0;
  // What the token adds to the text before it; incomplete characters become U+FFFD.
  std::string text;
  // The natural logarithm of the token's probability at temperature 1, over the whole vocabulary,
  // after penalties and biases.
  float logprob = 0;
};

// A token of an answer.
struct ChosenToken : TokenLogprob {
  // The likeliest tokens in its place, in order.
  std::vector<TokenLogprob> likeliest;
};

}  // namespace tandem
