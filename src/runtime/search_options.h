// The settings of a search, with the names and defaults of ONNX Runtime GenAI.
#pragma once

#include <cstdint>
#include <vector>

namespace tandem {

struct SearchOptions {
  // False: greedy.
  bool do_sample = false;
  // Greater than 0.
  float temperature = 1;
  // 0: no limit.
  std::int64_t top_k = 50;
  // In (0, 1]; 1: no limit.
  float top_p = 1;
  // Greater than 0; 1: no penalty. See repetition_penalty() in logits_processors.h.
  float repetition_penalty = 1;
  // Total tokens, prompt included, before which no end token is chosen.
  std::int64_t min_length = 0;
  // Maximum total tokens, prompt included; 0: the model's context length.
  std::int64_t max_length = 0;
  // -1: taken from the system's entropy source.
  std::int64_t seed = -1;
  // Tokens that end the answer; empty: the model's end tokens.
  std::vector<std::int64_t> eos;
  // Computes the log-probability of each choice, which costs a pass over the vocabulary.
  bool with_log_probability = false;
};

// Throws kInvalidArgument naming the option.
void validate(const SearchOptions& options);

}  // namespace tandem
