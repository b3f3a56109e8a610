// Choosing the next token from logits, with the semantics of ONNX Runtime GenAI: a chain of logits
// processors, then a sampler.
#pragma once

#include <span>
#include <vector>

#include "runtime/logits_processors.h"
#include "runtime/sampler.h"
#include "runtime/search_options.h"

namespace tandem {

class Search {
 public:
  // The chain defined by the options: the bias, the minimum length, the repetition penalty, the
  // penalties of the answer, then no repeated run of tokens, each if enabled. Throws
  // kInvalidArgument naming the invalid option.
  explicit Search(SearchOptions options);

  // Appends a processor to the chain. Throws kInvalidArgument if it is empty.
  void add(LogitsProcessor processor);

  // The next token after `sequence`, whose first `prompt` tokens were given, from its last row of
  // logits, [vocabulary]. Sequences may come in any order and with any length: the only state kept
  // between choices is the random generator.
  // Throws kInternal if a logit, or a score from a processor, is NaN, and what Sampler::choose()
  // throws.
  Choice choose(std::span<const float> logits, std::span<const TokenId> sequence,
                std::size_t prompt = 0);

  const SearchOptions& options() const noexcept { return options_; }

 private:
  SearchOptions options_;
  std::vector<LogitsProcessor> processors_;
  Sampler sampler_;
  // The logits as modified by the chain; unused without processors.
  std::vector<float> scores_;
};

}  // namespace tandem
