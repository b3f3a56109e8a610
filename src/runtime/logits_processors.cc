// Repetition penalty and minimum length.
#include "runtime/logits_processors.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace tandem {
namespace {

bool is_in(std::int64_t id, std::span<const float> scores) noexcept {
  return id >= 0 && id < static_cast<std::int64_t>(scores.size());
}

class RepetitionPenalty {
 public:
  explicit RepetitionPenalty(float penalty) : penalty_(penalty) {}

  // A second pass over the sequence clears the marks again, which is cheaper than clearing the
  // whole vocabulary and leaves no state for the next call, which may be for another sequence.
  void operator()(std::span<float> scores, std::span<const TokenId> sequence) {
    if (seen_.size() < scores.size()) seen_.resize(scores.size());
    for (const TokenId id : sequence) {
      const auto at = static_cast<std::size_t>(id);
      if (!is_in(id, scores) || seen_[at]) continue;
      seen_[at] = true;
      scores[at] = scores[at] < 0 ? scores[at] * penalty_ : scores[at] / penalty_;
    }
    for (const TokenId id : sequence)
      if (is_in(id, scores)) seen_[static_cast<std::size_t>(id)] = false;
  }

 private:
  float penalty_;
  // For each token of the vocabulary, whether this call has already penalized it; all false between
  // calls.
  std::vector<bool> seen_;
};

}  // namespace

LogitsProcessor repetition_penalty(float penalty) { return RepetitionPenalty(penalty); }

LogitsProcessor min_length(std::int64_t length, std::vector<std::int64_t> end_tokens) {
  return [length, end_tokens = std::move(end_tokens)](std::span<float> scores,
                                                      std::span<const TokenId> sequence) {
    if (static_cast<std::int64_t>(sequence.size()) >= length) return;
    for (const std::int64_t id : end_tokens)
      if (is_in(id, scores))
        scores[static_cast<std::size_t>(id)] = std::numeric_limits<float>::lowest();
  };
}

LogitsProcessor no_repeat_ngram(std::int64_t size) {
  return [before = static_cast<std::size_t>(size - 1)](std::span<float> scores,
                                                       std::span<const TokenId> sequence) {
    if (sequence.size() <= before) return;
    const auto last = sequence.last(before);
    for (std::size_t at = 0; at + before < sequence.size(); ++at) {
      const TokenId next = sequence[at + before];
      if (std::ranges::equal(sequence.subspan(at, before), last) && is_in(next, scores))
        scores[static_cast<std::size_t>(next)] = std::numeric_limits<float>::lowest();
    }
  };
}

}  // namespace tandem
