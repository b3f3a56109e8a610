// Applies the chain of processors, then the sampler.
#include "runtime/search.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"

namespace tandem {
namespace {

SearchOptions validated(SearchOptions options) {
  validate(options);
  return options;
}

void require_numbers(std::span<const float> scores, const char* what, std::size_t length) {
  if (std::any_of(scores.begin(), scores.end(), [](float x) { return std::isnan(x); }))
    fail(ErrorCode::kInternal, "[search] {} is not a number after {} tokens", what, length);
}

}  // namespace

Search::Search(SearchOptions options)
    : options_(validated(std::move(options))), sampler_(options_) {
  if (!options_.logit_bias.empty()) add(logit_bias(options_.logit_bias));
  if (options_.min_length > 0) add(min_length(options_.min_length, options_.eos));
  if (options_.repetition_penalty != 1) add(repetition_penalty(options_.repetition_penalty));
  if (options_.presence_penalty != 0 || options_.frequency_penalty != 0)
    add(answer_penalties(options_.presence_penalty, options_.frequency_penalty));
  if (options_.no_repeat_ngram_size > 0) add(no_repeat_ngram(options_.no_repeat_ngram_size));
}

void Search::add(LogitsProcessor processor) {
  if (!processor)
    fail(ErrorCode::kInvalidArgument, "[search] add: expected a processor, got an empty function");
  processors_.push_back(std::move(processor));
}

Choice Search::choose(std::span<const float> logits, std::span<const TokenId> sequence,
                      std::size_t prompt) {
  require_numbers(logits, "a logit", sequence.size());
  if (processors_.empty()) return sampler_.choose(logits);
  scores_.assign(logits.begin(), logits.end());
  for (LogitsProcessor& process : processors_) process(scores_, sequence, prompt);
  require_numbers(scores_, "a processed score", sequence.size());
  return sampler_.choose(scores_);
}

}  // namespace tandem
