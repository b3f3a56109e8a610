// What a model still knows: perplexity of texts, divergence from a reference model, questions
// answered right.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "runtime/loaded_model.h"

namespace tandem {

struct TextScore {
  std::int64_t windows = 0;
  std::int64_t tokens = 0;  // scored
  double perplexity = 0;    // exp of the mean negative log likelihood
  double kl = 0;  // nats per scored token, reference against this model; 0 without a reference
};

struct QuestionScore {
  std::int64_t right = 0;
  std::int64_t total = 0;
};

// A text as it is scored: tokenized once, without added tokens, at most `max_windows` windows of it
// (0: all).
struct TextWindows {
  std::vector<TokenId> ids;
  std::int64_t window = 0;  // tokens: what was asked for, or the model's context if that is shorter
};
TextWindows read_windows(LoadedModel& model, const fs::path& text, std::int64_t window = 512,
                         std::int64_t max_windows = 0);

// Called after each window or question: (done, total).
using EvaluationProgress = std::function<void(std::int64_t, std::int64_t)>;

// The text is tokenized once and cut in windows (the tail dropped); the first token of a window is
// not scored, every other is, on the prefill devices. With `reference` (a model with the same
// vocabulary) also the KL divergence sum p log(p / q), p from the reference. Throws
// kInvalidArgument if the text is shorter than one window.
TextScore score_text(LoadedModel& model, LoadedModel* reference, std::span<const TokenId> ids,
                     std::int64_t window, const EvaluationProgress& progress = {});

// Hand-over: the first half of each window is read as a prompt, the second half is scored one token
// at a time on the decode device.
TextScore score_handover(LoadedModel& model, std::span<const TokenId> ids, std::int64_t window,
                         const EvaluationProgress& progress = {});

struct Question {
  std::string question;
  std::string answer;
};
// [{"question": …, "answer": …}, …]; other keys are ignored.
std::vector<Question> read_questions(const fs::path& path);

// Asks through the chat template, greedy, at most 60 tokens; right when the answer is equal to the
// letter.
QuestionScore ask_questions(LoadedModel& model, std::span<const Question> questions,
                            const EvaluationProgress& progress = {});

}  // namespace tandem
