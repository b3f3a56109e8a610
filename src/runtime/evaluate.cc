#include "runtime/evaluate.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "runtime/generator.h"

namespace tandem {
namespace {

constexpr std::int64_t kAnswerTokens = 60;

// log of the sum of exponentials, in double.
double log_sum_exp(std::span<const float> logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  return max + std::log(sum);
}

double negative_log_likelihood(std::span<const float> logits, TokenId token) {
  return log_sum_exp(logits) - logits[static_cast<std::size_t>(token)];
}

double divergence(std::span<const float> reference, std::span<const float> logits) {
  const double reference_sum = log_sum_exp(reference);
  const double sum = log_sum_exp(logits);
  double kl = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double log_p = reference[i] - reference_sum;
    kl += std::exp(log_p) * (log_p - (logits[i] - sum));
  }
  return kl;
}

std::int64_t count_windows(std::span<const TokenId> ids, std::int64_t window) {
  if (window < 2)
    fail(ErrorCode::kInvalidArgument, "[eval] window: expected at least 2 tokens, got {}", window);
  const std::int64_t windows = static_cast<std::int64_t>(ids.size()) / window;
  if (windows == 0) {
    fail(ErrorCode::kInvalidArgument, "[eval] the text has {} tokens, a window needs {}",
         ids.size(), window);
  }
  return windows;
}

void finish(TextScore& score, double sum) {
  score.perplexity = std::exp(sum / static_cast<double>(score.tokens));
  score.kl /= static_cast<double>(score.tokens);
}

}  // namespace

TextWindows read_windows(LoadedModel& model, const fs::path& text, std::int64_t window,
                         std::int64_t max_windows) {
  TextWindows windows;
  windows.ids = model.tokenizer().encode(read_text_file(text), {.add_special_tokens = false});
  windows.window = std::min(window, model.info().context_length);
  const auto limit = static_cast<std::size_t>(max_windows * windows.window);
  if (limit > 0 && windows.ids.size() > limit) windows.ids.resize(limit);
  return windows;
}

TextScore score_text(LoadedModel& model, LoadedModel* reference, std::span<const TokenId> ids,
                     std::int64_t window, const EvaluationProgress& progress) {
  TextScore score;
  score.windows = count_windows(ids, window);
  const auto vocabulary = static_cast<std::size_t>(model.info().vocabulary);
  if (reference != nullptr && reference->info().vocabulary != model.info().vocabulary) {
    fail(ErrorCode::kInvalidArgument,
         "[eval] the reference has a vocabulary of {}, the model of {}",
         reference->info().vocabulary, model.info().vocabulary);
  }
  double sum = 0;
  std::vector<float> expected;  // the reference's logits of one window, [window, vocabulary]
  for (std::int64_t w = 0; w < score.windows; ++w) {
    const auto tokens =
        ids.subspan(static_cast<std::size_t>(w * window), static_cast<std::size_t>(window));
    if (reference != nullptr) {
      expected.clear();
      KvSequence sequence = reference->new_sequence();
      reference->prefill_all(sequence, tokens, [&](std::int64_t, std::span<const float> rows) {
        expected.insert(expected.end(), rows.begin(), rows.end());
      });
    }
    KvSequence sequence = model.new_sequence();
    model.prefill_all(sequence, tokens, [&](std::int64_t first, std::span<const float> rows) {
      const auto count = static_cast<std::int64_t>(rows.size() / vocabulary);
      std::vector<double> losses(static_cast<std::size_t>(count));
      std::vector<double> divergences(static_cast<std::size_t>(count));
      model.pool().parallel_for(count, 1, [&](Range range) {
        for (std::int64_t r = range.begin; r < range.end; ++r) {
          const auto token = static_cast<std::size_t>(first + r);
          if (token + 1 >= tokens.size()) continue;  // nothing follows the last
          const auto row = rows.subspan(static_cast<std::size_t>(r) * vocabulary, vocabulary);
          losses[static_cast<std::size_t>(r)] = negative_log_likelihood(row, tokens[token + 1]);
          if (reference != nullptr) {
            divergences[static_cast<std::size_t>(r)] =
                divergence(std::span(expected).subspan(token * vocabulary, vocabulary), row);
          }
        }
      });
      for (const double loss : losses) sum += loss;
      for (const double kl : divergences) score.kl += kl;
    });
    score.tokens += window - 1;
    if (progress) progress(w + 1, score.windows);
  }
  finish(score, sum);
  return score;
}

TextScore score_handover(LoadedModel& model, std::span<const TokenId> ids, std::int64_t window,
                         const EvaluationProgress& progress) {
  TextScore score;
  score.windows = count_windows(ids, window);
  double sum = 0;
  for (std::int64_t w = 0; w < score.windows; ++w) {
    const auto tokens =
        ids.subspan(static_cast<std::size_t>(w * window), static_cast<std::size_t>(window));
    const std::size_t half = tokens.size() / 2;
    KvSequence sequence = model.new_sequence();
    std::span<const float> logits = model.prefill(sequence, tokens.first(half));
    for (std::size_t t = half; t < tokens.size(); ++t) {
      sum += negative_log_likelihood(logits, tokens[t]);
      ++score.tokens;
      if (t + 1 < tokens.size()) logits = model.decode(sequence, tokens[t]);
    }
    if (progress) progress(w + 1, score.windows);
  }
  finish(score, sum);
  return score;
}

std::vector<Question> read_questions(const fs::path& path) {
  const Json list = read_json_file(path);
  if (!list.is_array())
    fail(ErrorCode::kFormat, "[eval] {}: expected an array of questions", path.string());
  std::vector<Question> questions;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const JsonObject entry(list[i], fmt::format("{}: question {}", path.string(), i));
    questions.push_back({entry.get_string("question"), entry.get_string("answer")});
  }
  return questions;
}

QuestionScore ask_questions(LoadedModel& model, std::span<const Question> questions,
                            const EvaluationProgress& progress) {
  QuestionScore score;
  Generator generator(model, {});
  for (const Question& question : questions) {
    generator.rewind(0);
    generator.append(model.encode_chat(question.question));
    const std::size_t prompt = generator.sequence().size();
    for (std::int64_t i = 0; i < kAnswerTokens && !generator.done(); ++i) generator.next();
    const std::string answer = model.tokenizer().decode(generator.sequence().subspan(prompt), true);
    score.right += answer == question.answer ? 1 : 0;
    ++score.total;
    if (progress) progress(score.total, static_cast<std::int64_t>(questions.size()));
  }
  return score;
}

}  // namespace tandem
