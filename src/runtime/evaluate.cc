// Scores texts and questions in batches.
#include "runtime/evaluate.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/logits.h"
#include "runtime/generator.h"

namespace tandem {
namespace {

constexpr std::int64_t kAnswerTokens = 60;

// Windows or questions that are decoded as a batch.
constexpr std::int64_t kBatch = 16;
// Short windows are read together, up to this many tokens: enough to fill runs, few enough that a
// reference's logits for them stay at a few hundred MB.
constexpr std::int64_t kGroupTokens = 512;

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

// `count` windows of a text, starting with window `first`.
class Windows {
 public:
  Windows(std::span<const TokenId> ids, std::int64_t window, std::int64_t first,
          std::int64_t count) {
    for (std::int64_t w = first; w < first + count; ++w)
      all_.push_back(
          ids.subspan(static_cast<std::size_t>(w * window), static_cast<std::size_t>(window)));
  }
  std::size_t size() const { return all_.size(); }
  std::span<const std::span<const TokenId>> all() const { return all_; }

 private:
  std::vector<std::span<const TokenId>> all_;
};

// New sequences, with the pointers that batch functions take.
class SequenceBatch {
 public:
  SequenceBatch(LocalModel& model, std::size_t count) {
    sequences_.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      sequences_.push_back(model.engine.new_sequence());
      pointers_.push_back(&sequences_.back());
    }
  }
  std::span<KvSequence* const> pointers() const { return pointers_; }

 private:
  std::vector<KvSequence> sequences_;
  std::vector<KvSequence*> pointers_;
};

// Sums of negative log-likelihoods, and of their squares.
struct Losses {
  double sum = 0;
  double squares = 0;
  void add(double loss) {
    sum += loss;
    squares += loss * loss;
  }
};

void finish(TextScore& score, const Losses& losses) {
  const auto count = static_cast<double>(score.tokens);
  const double mean = losses.sum / count;
  score.perplexity = std::exp(mean);
  const double variance = losses.squares / count - mean * mean;
  if (score.tokens > 1 && variance > 0)
    score.perplexity_error = score.perplexity * std::sqrt(variance / (count - 1));
}

// The logits of windows, [windows, window, vocabulary].
std::vector<float> logits_of(LocalModel& model, const Windows& windows) {
  std::vector<float> logits;
  SequenceBatch sequences(model, windows.size());
  model.engine.prefill_batch_all(sequences.pointers(), windows.all(),
                                 [&](std::size_t, std::int64_t, std::span<const float> rows) {
                                   logits.insert(logits.end(), rows.begin(), rows.end());
                                 });
  return logits;
}

// How a model, and a reference, do at one token.
struct TokenScore {
  double loss = 0;
  double reference_loss = 0;
  Disagreement from_reference;
};

// Of the tokens but the last of each of `windows`, [windows, window - 1]. `expected`: the
// reference's logits, or none.
std::vector<TokenScore> score_tokens(LocalModel& model, const Windows& windows,
                                     std::span<const float> expected) {
  const auto vocabulary = static_cast<std::size_t>(model.info().vocabulary);
  const std::size_t window = windows.all()[0].size();
  std::vector<TokenScore> scores(windows.size() * (window - 1));
  SequenceBatch sequences(model, windows.size());
  model.engine.prefill_batch_all(
      sequences.pointers(), windows.all(),
      [&](std::size_t s, std::int64_t first, std::span<const float> rows) {
        const auto count = static_cast<std::int64_t>(rows.size() / vocabulary);
        model.engine.pool().parallel_for(count, 1, [&](Range range) {
          for (std::int64_t r = range.begin; r < range.end; ++r) {
            const auto token = static_cast<std::size_t>(first + r);
            // Nothing follows the last token.
            if (token + 1 >= window) continue;
            const auto next = static_cast<std::size_t>(windows.all()[s][token + 1]);
            const auto row = rows.subspan(static_cast<std::size_t>(r) * vocabulary, vocabulary);
            TokenScore& score = scores[s * (window - 1) + token];
            score.loss = negative_log_likelihood(row, next);
            if (expected.empty()) continue;
            const auto reference = expected.subspan((s * window + token) * vocabulary, vocabulary);
            score.reference_loss = negative_log_likelihood(reference, next);
            score.from_reference = compare_logits(reference, row);
          }
        });
      });
  return scores;
}

// Sums of scores, window by window.
class Comparison {
 public:
  void add(std::span<const TokenScore> window) {
    std::vector<double> losses, ratios, divergences;
    for (const TokenScore& score : window) {
      losses.push_back(score.reference_loss);
      ratios.push_back(score.loss - score.reference_loss);
      divergences.push_back(score.from_reference.kl);
      agreeing_ += score.from_reference.same_top ? 1 : 0;
    }
    losses_.add(losses);
    ratios_.add(ratios);
    divergences_.add(divergences);
  }

  void write_to(TextScore& score) const {
    score.reference_perplexity = std::exp(losses_.mean());
    score.log_ratio = ratios_.mean();
    score.log_ratio_error = ratios_.error();
    score.kl = divergences_.mean();
    score.kl_error = divergences_.error();
    score.kl_p99 = divergences_.quantile(0.99);
    score.kl_max = divergences_.quantile(1);
    score.agreement = static_cast<double>(agreeing_) / static_cast<double>(score.tokens);
  }

 private:
  WindowMean losses_, ratios_, divergences_;
  std::int64_t agreeing_ = 0;
};

}  // namespace

TextWindows read_windows(LocalModel& model, const fs::path& text, std::int64_t window,
                         std::int64_t max_windows) {
  TextWindows windows;
  windows.ids = model.text.tokenizer().encode(read_text_file(text), {.add_special_tokens = false});
  windows.window = std::min(window, model.info().longest_sequence());
  const auto limit = static_cast<std::size_t>(max_windows * windows.window);
  if (limit > 0 && windows.ids.size() > limit) windows.ids.resize(limit);
  return windows;
}

TextScore score_text(LocalModel& model, LocalModel* reference, std::span<const TokenId> ids,
                     std::int64_t window, const EvaluationProgress& progress) {
  TextScore score;
  const std::int64_t total = count_windows(ids, window);
  if (reference != nullptr && reference->info().vocabulary != model.info().vocabulary) {
    fail(ErrorCode::kInvalidArgument,
         "[eval] the reference has a vocabulary of {}, the model of {}",
         reference->info().vocabulary, model.info().vocabulary);
  }
  Losses sum;
  Comparison comparison;
  const std::int64_t group = std::max<std::int64_t>(1, kGroupTokens / window);
  const auto scored = static_cast<std::size_t>(window - 1);
  bool more = true;
  for (std::int64_t w = 0; w < total && more; w += group) {
    const Windows windows(ids, window, w, std::min(group, total - w));
    std::vector<float> expected;
    if (reference != nullptr) expected = logits_of(*reference, windows);
    const std::vector<TokenScore> scores = score_tokens(model, windows, expected);
    for (std::size_t i = 0; i < windows.size(); ++i) {
      const auto tokens = std::span(scores).subspan(i * scored, scored);
      for (const TokenScore& token : tokens) sum.add(token.loss);
      if (reference != nullptr) comparison.add(tokens);
      score.tokens += window - 1;
      ++score.windows;
      if (progress) more = progress(score.windows, total) && more;
    }
  }
  finish(score, sum);
  if (reference != nullptr) comparison.write_to(score);
  return score;
}

TextScore score_handover(LocalModel& model, std::span<const TokenId> ids, std::int64_t window,
                         const EvaluationProgress& progress) {
  TextScore score;
  const std::int64_t total = count_windows(ids, window);
  Losses sum;
  const auto vocabulary = static_cast<std::size_t>(model.info().vocabulary);
  const auto half = static_cast<std::size_t>(window / 2);
  bool more = true;
  for (std::int64_t w = 0; w < total && more; w += kBatch) {
    const Windows windows(ids, window, w, std::min(kBatch, total - w));
    std::vector<std::span<const TokenId>> prompts;
    for (const auto& tokens : windows.all()) prompts.push_back(tokens.first(half));
    SequenceBatch sequences(model, windows.size());
    std::span<const float> logits = model.engine.prefill_batch(sequences.pointers(), prompts);
    // Summed window by window, so that the result does not depend on how many windows are read at
    // once.
    std::vector<std::vector<double>> losses(windows.size());
    std::vector<TokenId> next(windows.size());
    for (std::size_t t = half; t < static_cast<std::size_t>(window); ++t) {
      for (std::size_t i = 0; i < windows.size(); ++i) {
        next[i] = windows.all()[i][t];
        losses[i].push_back(negative_log_likelihood(logits.subspan(i * vocabulary, vocabulary),
                                                    static_cast<std::size_t>(next[i])));
      }
      if (t + 1 < static_cast<std::size_t>(window))
        logits = model.engine.decode_batch(sequences.pointers(), next);
    }
    for (std::size_t i = 0; i < windows.size(); ++i) {
      for (const double loss : losses[i]) sum.add(loss);
      score.tokens += static_cast<std::int64_t>(losses[i].size());
      ++score.windows;
      if (progress) more = progress(score.windows, total) && more;
    }
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
  if (questions.empty())
    fail(ErrorCode::kFormat, "[eval] {}: expected at least one question", path.string());
  return questions;
}

QuestionScore ask_questions(LocalModel& model, std::span<const Question> questions,
                            const EvaluationProgress& progress) {
  QuestionScore score;
  const auto total = static_cast<std::int64_t>(questions.size());
  bool more = true;
  for (std::size_t first = 0; first < questions.size() && more; first += kBatch) {
    const auto group = questions.subspan(
        first, std::min(static_cast<std::size_t>(kBatch), questions.size() - first));
    std::vector<std::vector<TokenId>> prompts;
    for (const Question& question : group)
      prompts.push_back(model.text.encode_chat(question.question));
    for (std::size_t q = 0; q < group.size(); ++q)
      if (static_cast<std::int64_t>(prompts[q].size()) >= model.info().longest_sequence())
        fail(ErrorCode::kInvalidArgument,
             "[eval] question {} has {} tokens, which leaves no room for an answer in {}",
             first + q, prompts[q].size(), model.info().longest_sequence());
    Generator generator(model.engine, {}, prompts.size());
    generator.append(std::vector<std::span<const TokenId>>(prompts.begin(), prompts.end()));
    for (std::int64_t i = 0; i < kAnswerTokens && !generator.done(); ++i) generator.next_all();
    for (std::size_t q = 0; q < group.size(); ++q) {
      const auto answer = generator.sequence(q).subspan(prompts[q].size());
      score.right += model.text.tokenizer().decode(answer, true) == group[q].answer ? 1 : 0;
      ++score.total;
      if (progress) more = progress(score.total, total) && more;
    }
  }
  return score;
}

}  // namespace tandem
