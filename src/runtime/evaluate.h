// The quality of a model: perplexity on texts, KL divergence from a reference model, questions
// answered correctly.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "runtime/local_model.h"

namespace tandem {

struct TextScore {
  std::int64_t windows = 0;
  // Number of scored tokens.
  std::int64_t tokens = 0;
  // exp of the mean negative log-likelihood.
  double perplexity = 0;
  // Its standard error: perplexity times the standard error of that mean, as llama.cpp's perplexity
  // tool states it.
  double perplexity_error = 0;
  // What follows is 0 without a reference.
  double reference_perplexity = 0;
  // ln(perplexity / reference's perplexity): the mean over tokens of the reference's log-likelihood
  // minus this model's, paired token by token, so that what makes a text hard for both cancels out.
  double log_ratio = 0;
  double log_ratio_error = 0;
  // Mean KL divergence of this model from the reference, in nats per scored token.
  double kl = 0;
  double kl_error = 0;
  double kl_p99 = 0;
  double kl_max = 0;
  // Share of tokens at which both find the same token the likeliest, in [0, 1].
  double agreement = 0;
};

struct QuestionScore {
  std::int64_t right = 0;
  std::int64_t total = 0;
};

// A text to be scored: tokenized once, without added special tokens, with at most `max_windows`
// windows (0: no limit).
struct TextWindows {
  std::vector<TokenId> ids;
  // Tokens per window: the requested number, or the model's context length if that is shorter.
  std::int64_t window = 0;

  // Whole windows; the tail is not scored.
  std::int64_t count() const { return static_cast<std::int64_t>(ids.size()) / window; }
};
TextWindows read_windows(LocalModel& model, const fs::path& text, std::int64_t window = 512,
                         std::int64_t max_windows = 0);

// Called with (done, total) after each window or question. False ends the evaluation there: the
// score is then that of what was done.
using EvaluationProgress = std::function<bool(std::int64_t, std::int64_t)>;

// The text is split into windows (the tail is dropped); all tokens of a window but the first are
// scored, on the prefill devices. With `reference` (a model with the same vocabulary) also compares
// the two (base/logits.h has the formulas, also of the standard errors of log_ratio and kl). Throws
// kInvalidArgument if the text is shorter than one window.
TextScore score_text(LocalModel& model, LocalModel* reference, std::span<const TokenId> ids,
                     std::int64_t window, const EvaluationProgress& progress = {});

// Scores the hand-over from prefill to decode: the first half of each window is read as a prompt,
// the second half is scored one token at a time on the decode device.
TextScore score_handover(LocalModel& model, std::span<const TokenId> ids, std::int64_t window,
                         const EvaluationProgress& progress = {});

struct Question {
  std::string question;
  std::string answer;
};
// [{"question": …, "answer": …}, …]; other keys are ignored.
std::vector<Question> read_questions(const fs::path& path);

// Asks each question through the chat template, with greedy search and at most 60 tokens; an answer
// is correct if it matches exactly.
QuestionScore ask_questions(LocalModel& model, std::span<const Question> questions,
                            const EvaluationProgress& progress = {});

}  // namespace tandem
