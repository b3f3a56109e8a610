// The processors that have a state of their own, and those that are a loop.
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
  void operator()(std::span<float> scores, std::span<const TokenId> sequence, std::size_t) {
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

class AnswerPenalties {
 public:
  AnswerPenalties(float presence, float frequency) : presence_(presence), frequency_(frequency) {}

  void operator()(std::span<float> scores, std::span<const TokenId> sequence, std::size_t prompt) {
    const auto answer = sequence.subspan(prompt);
    if (counts_.size() < scores.size()) counts_.resize(scores.size());
    for (const TokenId id : answer)
      if (is_in(id, scores)) ++counts_[static_cast<std::size_t>(id)];
    for (const TokenId id : answer) {
      const auto at = static_cast<std::size_t>(id);
      if (!is_in(id, scores) || counts_[at] == 0) continue;
      scores[at] -= presence_ + frequency_ * static_cast<float>(counts_[at]);
      counts_[at] = 0;
    }
  }

 private:
  float presence_;
  float frequency_;
  // For each token of the vocabulary, how often the answer holds it; all zero between calls.
  std::vector<std::int32_t> counts_;
};

}  // namespace

LogitsProcessor logit_bias(std::map<TokenId, float> biases) {
  return
      [biases = std::move(biases)](std::span<float> scores, std::span<const TokenId>, std::size_t) {
        for (const auto& [id, bias] : biases)
          if (is_in(id, scores)) {
            float& score = scores[static_cast<std::size_t>(id)];
            score = std::max(score + bias, std::numeric_limits<float>::lowest());
          }
      };
}

LogitsProcessor repetition_penalty(float penalty) { return RepetitionPenalty(penalty); }

LogitsProcessor answer_penalties(float presence, float frequency) {
  return AnswerPenalties(presence, frequency);
}

LogitsProcessor min_length(std::int64_t length, std::vector<std::int64_t> end_tokens) {
  return [length, end_tokens = std::move(end_tokens)](
             std::span<float> scores, std::span<const TokenId> sequence, std::size_t) {
    if (static_cast<std::int64_t>(sequence.size()) >= length) return;
    for (const std::int64_t id : end_tokens)
      if (is_in(id, scores))
        scores[static_cast<std::size_t>(id)] = std::numeric_limits<float>::lowest();
  };
}

LogitsProcessor no_repeat_ngram(std::int64_t size) {
  return [before = static_cast<std::size_t>(size - 1)](
             std::span<float> scores, std::span<const TokenId> sequence, std::size_t) {
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
