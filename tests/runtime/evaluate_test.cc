// Edge cases of the evaluation protocols, and invalid questions and benchmark options.
#include "runtime/evaluate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "runtime/benchmark.h"
#include "runtime/demo_package.h"

namespace tandem {
namespace {

using testing::all_logits;
using testing::demo_ids;
using testing::error_of;
using testing::open_demo;

// -log softmax(row)[token], in double.
double loss(std::span<const float> row, TokenId token) {
  double sum = 0;
  for (const float logit : row) sum += std::exp(static_cast<double>(logit));
  return std::log(sum) - row[static_cast<std::size_t>(token)];
}

TEST(ScoreText, FollowsItsProtocol) {
  const auto model = open_demo(Mode::kFloat);
  const auto ids = demo_ids(*model, "eval_stories.txt", 300);
  const auto vocabulary = static_cast<std::size_t>(model->info().vocabulary);
  // Windows of 2 score one token each; 140 is more than one run of the model; 7 leaves a tail.
  for (const std::size_t window : {2, 7, 140, 300}) {
    const std::size_t windows = ids.size() / window;
    double sum = 0;
    for (std::size_t w = 0; w < windows; ++w) {
      const auto part = std::span(ids).subspan(w * window, window);
      const auto logits = all_logits(*model, part);
      for (std::size_t t = 0; t + 1 < window; ++t)
        sum += loss(std::span(logits).subspan(t * vocabulary, vocabulary), part[t + 1]);
    }
    const auto scored = static_cast<double>(windows * (window - 1));
    std::vector<std::int64_t> seen;
    const TextScore score = score_text(*model, nullptr, ids, static_cast<std::int64_t>(window),
                                       [&](std::int64_t done, std::int64_t total) {
                                         EXPECT_EQ(total, static_cast<std::int64_t>(windows));
                                         seen.push_back(done);
                                         return true;
                                       });
    EXPECT_EQ(score.windows, static_cast<std::int64_t>(windows));
    EXPECT_EQ(score.tokens, static_cast<std::int64_t>(scored));
    EXPECT_NEAR(score.perplexity / std::exp(sum / scored), 1, 1e-9) << window;
    ASSERT_EQ(seen.size(), windows);
    EXPECT_EQ(seen.front(), 1);
    EXPECT_EQ(seen.back(), static_cast<std::int64_t>(windows));
  }
}

TEST(ScoreText, RefusesTextsShorterThanAWindow) {
  const auto model = open_demo(Mode::kFloat);
  const std::vector<TokenId> ids = {1, 2, 3};
  for (const std::int64_t window : {1, 0, -5}) {
    const std::string expected = fmt::format("at least 2 tokens, got {}", window);
    EXPECT_NE(error_of([&] { score_text(*model, nullptr, ids, window); }).find(expected),
              std::string::npos);
    EXPECT_NE(error_of([&] { score_handover(*model, ids, window); }).find(expected),
              std::string::npos);
  }
  EXPECT_NE(error_of([&] {
              score_text(*model, nullptr, ids, 4);
            }).find("[eval] the text has 3 tokens, a window needs 4"),
            std::string::npos);
  EXPECT_NE(error_of([&] { score_handover(*model, {}, 2); }).find("the text has 0 tokens"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              score_text(*model, nullptr, std::vector<TokenId>{1, 5000}, 2);
            }).find("token 1 is 5000"),
            std::string::npos);
}

TEST(ScoreText, FindsNoDivergenceFromItself) {
  const auto model = open_demo(Mode::kFloat);
  const auto twin = open_demo(Mode::kFloat, {.chunk = 50});
  const auto ids = demo_ids(*model, "eval_stories.txt", 256);
  for (LocalModel* reference : {model.get(), twin.get()}) {
    const TextScore score = score_text(*model, reference, ids, 128);
    EXPECT_EQ(score.kl, 0);
    EXPECT_EQ(score.kl_max, 0);
    EXPECT_EQ(score.log_ratio, 0);
    EXPECT_EQ(score.log_ratio_error, 0);
    EXPECT_EQ(score.agreement, 1);
    EXPECT_EQ(score.reference_perplexity, score.perplexity);
  }
}

TEST(ScoreText, ComparesWithTheReferenceTokenByToken) {
  const auto model = open_demo(Mode::kCpu);
  const auto reference = open_demo(Mode::kFloat);
  const std::size_t window = 16, windows = 3;
  const auto ids = demo_ids(*model, "eval_stories.txt", window * windows);
  const auto vocabulary = static_cast<std::size_t>(model->info().vocabulary);
  double kl = 0, largest = 0, p_loss = 0, q_loss = 0, same = 0;
  std::vector<double> ratios(windows);
  for (std::size_t w = 0; w < windows; ++w) {
    const auto part = std::span(ids).subspan(w * window, window);
    const auto q = all_logits(*model, part);
    const auto p = all_logits(*reference, part);
    // The last has nothing to predict.
    for (std::size_t t = 0; t + 1 < window; ++t) {
      const auto p_row = std::span(p).subspan(t * vocabulary, vocabulary);
      const auto q_row = std::span(q).subspan(t * vocabulary, vocabulary);
      double sum = 0;
      const double p_norm = loss(p_row, 0) + p_row[0], q_norm = loss(q_row, 0) + q_row[0];
      for (std::size_t i = 0; i < vocabulary; ++i) {
        const double log_p = p_row[i] - p_norm;
        sum += std::exp(log_p) * (log_p - (q_row[i] - q_norm));
      }
      kl += sum;
      largest = std::max(largest, sum);
      p_loss += loss(p_row, part[t + 1]);
      q_loss += loss(q_row, part[t + 1]);
      ratios[w] += (loss(q_row, part[t + 1]) - loss(p_row, part[t + 1])) / (window - 1);
      same += std::ranges::max_element(p_row) - p_row.begin() ==
                      std::ranges::max_element(q_row) - q_row.begin()
                  ? 1
                  : 0;
    }
  }
  const double tokens = windows * (window - 1);
  const double ratio = (q_loss - p_loss) / tokens;
  double squares = 0;
  for (const double each : ratios) squares += (each - ratio) * (each - ratio);
  const TextScore score = score_text(*model, reference.get(), ids, window);
  EXPECT_NEAR(score.kl, kl / tokens, 1e-9);
  EXPECT_NEAR(score.kl_max, largest, 1e-9);
  EXPECT_LE(score.kl_p99, score.kl_max);
  EXPECT_GT(score.kl_error, 0);
  EXPECT_NEAR(score.reference_perplexity, std::exp(p_loss / tokens), 1e-9);
  EXPECT_NEAR(score.log_ratio, ratio, 1e-9);
  EXPECT_NEAR(score.log_ratio, std::log(score.perplexity / score.reference_perplexity), 1e-9);
  EXPECT_NEAR(score.log_ratio_error, std::sqrt(squares / 6), 1e-9);
  EXPECT_NEAR(score.agreement, same / tokens, 1e-12);
}

TEST(ScoreText, NeedsAReferenceOfTheSameVocabulary) {
  const auto model = open_demo(Mode::kFloat);
  const auto other = testing::open_alone(testing::fixture("models/fixtures/llama_rope"));
  const std::vector<TokenId> ids = {1, 2};
  EXPECT_NE(error_of([&] {
              score_text(*model, other.get(), ids, 2);
            }).find("[eval] the reference has a vocabulary of"),
            std::string::npos);
}

// With one set of weights in both phases, hand-over changes nothing: the second halves' losses.
TEST(ScoreHandover, ScoresSecondHalves) {
  for (const Mode mode : {Mode::kFloat, Mode::kCpu}) {
    const auto model = open_demo(mode);
    const auto ids = demo_ids(*model, "eval_stories.txt", 100);
    const auto vocabulary = static_cast<std::size_t>(model->info().vocabulary);
    for (const std::size_t window : {2, 3, 50}) {
      double sum = 0;
      std::int64_t scored = 0;
      for (std::size_t first = 0; first + window <= ids.size(); first += window) {
        const auto part = std::span(ids).subspan(first, window);
        const auto logits = all_logits(*model, part);
        for (std::size_t t = window / 2; t < window; ++t, ++scored)
          sum += loss(std::span(logits).subspan((t - 1) * vocabulary, vocabulary), part[t]);
      }
      const TextScore score = score_handover(*model, ids, static_cast<std::int64_t>(window));
      EXPECT_EQ(score.tokens, scored);
      EXPECT_NEAR(score.perplexity / std::exp(sum / static_cast<double>(scored)), 1, 1e-9);
    }
  }
}

TEST(Questions, AreReadFromTheDemo) {
  const auto questions = read_questions(testing::demo_dir() / "eval_questions.json");
  ASSERT_EQ(questions.size(), 200U);
  EXPECT_EQ(questions[0].question, "Spell the word cat.");
  EXPECT_EQ(questions[0].answer, "c-a-t.");
}

TEST(Questions, RefusesBadFiles) {
  const testing::ScratchFolder scratch;
  const auto error = [&](const std::string& text) {
    write_text_file(scratch / "q.json", text);
    return error_of([&] { read_questions(scratch / "q.json"); });
  };
  EXPECT_NE(error(R"({"question": "a", "answer": "b"})").find("expected an array of questions"),
            std::string::npos);
  EXPECT_NE(error(R"([{"question": "a", "answer": "b"}, {"question": "a"}])").find("question 1"),
            std::string::npos);
  EXPECT_NE(error(R"([{"question": "a", "answer": 3}])").find("answer"), std::string::npos);
  EXPECT_NE(error(R"(["a"])").find("question 0"), std::string::npos);
  for (const char* text : {"", "[", "[{\"question\": \"a", "nonsense"})
    EXPECT_NE(error(text).find("q.json"), std::string::npos);
  EXPECT_NE(error_of([&] { read_questions(scratch / "missing.json"); }).find("missing.json"),
            std::string::npos);
  EXPECT_NE(error("[]").find("at least one question"), std::string::npos);
}

TEST(Questions, CountsWhatIsRight) {
  const auto model = open_demo(Mode::kFloat);
  const std::vector<Question> questions = {{"Spell the word cat.", "c-a-t."},
                                           {"Spell the word cat.", "c-a-t"},
                                           {"What is 10 plus 1?", ""}};
  std::vector<std::int64_t> seen;
  const QuestionScore score =
      ask_questions(*model, questions, [&](std::int64_t done, std::int64_t total) {
        EXPECT_EQ(total, 3);
        seen.push_back(done);
        return true;
      });
  EXPECT_EQ(score.right, 1);
  EXPECT_EQ(score.total, 3);
  EXPECT_EQ(seen, (std::vector<std::int64_t>{1, 2, 3}));
  EXPECT_EQ(ask_questions(*model, {}).total, 0);
  const std::vector<Question> long_one = {questions[0], {std::string(5000, 'a'), ""}};
  EXPECT_NE(error_of([&] { ask_questions(*model, long_one); }).find("question 1 has"),
            std::string::npos);
}

TEST(Benchmark, RefusesBadOptions) {
  const auto model = open_demo(Mode::kFloat);
  const auto error = [&](BenchmarkOptions options) {
    return error_of([&] { run_benchmark(*model, options); });
  };
  for (const std::int64_t prompt : {std::int64_t{0}, std::int64_t{-3}, std::int64_t{1} << 40})
    EXPECT_NE(error({.prompts = {4, prompt}}).find(fmt::format("got {}", prompt)),
              std::string::npos);
  EXPECT_NE(error({.generate = -1}).find("[bench] tokens to generate"), std::string::npos);
  EXPECT_NE(error({.repetitions = 0}).find("[bench] repetitions"), std::string::npos);
}

}  // namespace
}  // namespace tandem
