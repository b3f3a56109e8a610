// Each logits processor against a naive implementation of its formula, for sequences in any order.
#include "runtime/logits_processors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <set>

namespace tandem {
namespace {

constexpr float kLowest = std::numeric_limits<float>::lowest();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Sequence = std::vector<TokenId>;

std::vector<float> naive_repetition_penalty(std::vector<float> scores, const Sequence& sequence,
                                            float penalty) {
  for (const TokenId id : std::set<TokenId>(sequence.begin(), sequence.end())) {
    if (id < 0 || id >= static_cast<TokenId>(scores.size())) continue;
    float& score = scores[static_cast<std::size_t>(id)];
    score = score < 0 ? score * penalty : score / penalty;
  }
  return scores;
}

std::vector<float> naive_min_length(std::vector<float> scores, const Sequence& sequence,
                                    std::size_t length, const std::set<std::int64_t>& ends) {
  for (std::size_t id = 0; id < scores.size(); ++id)
    if (sequence.size() < length && ends.contains(static_cast<std::int64_t>(id)))
      scores[id] = kLowest;
  return scores;
}

// The formula of the OpenAI API reference.
std::vector<float> naive_answer_penalties(std::vector<float> scores, const Sequence& answer,
                                          float presence, float frequency) {
  for (std::size_t id = 0; id < scores.size(); ++id) {
    const auto times = std::ranges::count(answer, static_cast<TokenId>(id));
    scores[id] -= (times > 0 ? presence : 0) + frequency * static_cast<float>(times);
  }
  return scores;
}

std::vector<float> processed(LogitsProcessor& processor, std::vector<float> scores,
                             const Sequence& sequence, std::size_t prompt = 0) {
  processor(scores, sequence, prompt);
  return scores;
}

class LogitsProcessors : public ::testing::Test {
 protected:
  std::vector<float> random_scores(std::size_t vocabulary) {
    std::normal_distribution<float> normal(0, 3);
    std::vector<float> scores(vocabulary);
    for (float& score : scores) score = normal(random_);
    return scores;
  }
  // Ids of a vocabulary, with repetitions.
  Sequence random_sequence(std::size_t length, TokenId vocabulary) {
    std::uniform_int_distribution<TokenId> ids(0, vocabulary - 1);
    Sequence sequence(length);
    for (TokenId& id : sequence) id = ids(random_);
    return sequence;
  }

 private:
  std::mt19937_64 random_{11};
};

TEST_F(LogitsProcessors, RepetitionPenaltyIsItsFormula) {
  for (const float penalty : {1.0F, 1.1F, 2.0F, 0.5F, 1e30F}) {
    LogitsProcessor processor = repetition_penalty(penalty);
    for (const std::size_t length : {0, 1, 7, 300}) {
      const auto scores = random_scores(100);
      const auto sequence = random_sequence(length, 100);
      EXPECT_EQ(processed(processor, scores, sequence),
                naive_repetition_penalty(scores, sequence, penalty))
          << penalty << ' ' << length;
    }
  }
  LogitsProcessor processor = repetition_penalty(2);
  EXPECT_EQ(processed(processor, {3, -3, 0, -kInfinity, 5}, {0, 1, 2, 3, 1, 0}),
            (std::vector<float>{1.5F, -6, 0, -kInfinity, 5}));
}

TEST_F(LogitsProcessors, RepetitionPenaltyFollowsASequenceThatGrowsAndIsRewound) {
  LogitsProcessor processor = repetition_penalty(1.5F);
  Sequence sequence = random_sequence(20, 50);
  const auto expect_formula = [&] {
    const auto scores = random_scores(50);
    EXPECT_EQ(processed(processor, scores, sequence),
              naive_repetition_penalty(scores, sequence, 1.5F))
        << sequence.size();
  };
  for (const std::size_t length : {20, 21, 40, 12, 13, 13, 0, 5}) {
    const Sequence more = random_sequence(length, 50);
    if (length < sequence.size()) {
      sequence.resize(length);
    } else {
      sequence.insert(sequence.end(), more.begin() + static_cast<std::ptrdiff_t>(sequence.size()),
                      more.end());
    }
    expect_formula();
  }
  // Rewound, and grown to the same length with other tokens, in the same memory.
  for (TokenId& id : sequence) id = (id + 25) % 50;
  expect_formula();
}

TEST_F(LogitsProcessors, RepetitionPenaltyServesSeveralSequencesInTurn) {
  LogitsProcessor processor = repetition_penalty(3);
  std::vector<Sequence> rows = {random_sequence(5, 40), random_sequence(9, 40), {}};
  for (int step = 0; step < 10; ++step) {
    for (Sequence& row : rows) {
      const auto scores = random_scores(40);
      EXPECT_EQ(processed(processor, scores, row), naive_repetition_penalty(scores, row, 3));
      row.push_back(random_sequence(1, 40).front());
    }
  }
  // A copy goes on by itself, and so does one processor for vocabularies of several sizes.
  LogitsProcessor copy = processor;
  for (const std::size_t vocabulary : {10, 1, 80, 40}) {
    const auto scores = random_scores(vocabulary);
    const auto expected = naive_repetition_penalty(scores, rows[0], 3);
    EXPECT_EQ(processed(copy, scores, rows[0]), expected);
    EXPECT_EQ(processed(processor, scores, rows[0]), expected);
  }
}

TEST_F(LogitsProcessors, PassOverTokensOutsideTheVocabulary) {
  constexpr TokenId kMost = std::numeric_limits<TokenId>::max();
  LogitsProcessor penalty = repetition_penalty(2);
  EXPECT_EQ(processed(penalty, {2, 4}, {-1, 2, kMost, std::numeric_limits<TokenId>::min(), 1}),
            (std::vector<float>{2, 2}));
  EXPECT_EQ(processed(penalty, {}, {0, 1}), std::vector<float>{});
  LogitsProcessor length =
      min_length(5, {-1, 2, std::numeric_limits<std::int64_t>::min(),
                     std::numeric_limits<std::int64_t>::max(), std::int64_t{1} << 32, 1});
  EXPECT_EQ(processed(length, {2, 4}, {0}), (std::vector<float>{2, kLowest}));
  EXPECT_EQ(processed(length, {}, {}), std::vector<float>{});
}

TEST_F(LogitsProcessors, MinLengthIsItsFormula) {
  const std::vector<std::int64_t> ends = {3, 17, 3, 99};
  for (const std::int64_t least : {0, 1, 4, 1000}) {
    LogitsProcessor processor = min_length(least, ends);
    for (const std::size_t length : {5, 4, 3, 0, 1, 4, 999, 1000}) {
      const auto scores = random_scores(100);
      const auto sequence = random_sequence(length, 100);
      EXPECT_EQ(processed(processor, scores, sequence),
                naive_min_length(scores, sequence, static_cast<std::size_t>(least),
                                 {ends.begin(), ends.end()}))
          << least << ' ' << length;
    }
  }
  LogitsProcessor without_ends = min_length(10, {});
  EXPECT_EQ(processed(without_ends, {1, 2}, {}), (std::vector<float>{1, 2}));
  LogitsProcessor forever = min_length(std::numeric_limits<std::int64_t>::max(), {0});
  EXPECT_EQ(processed(forever, {1, 2}, {1}), (std::vector<float>{kLowest, 2}));
}

TEST_F(LogitsProcessors, AnswerPenaltiesAreTheirFormula) {
  for (const auto& [presence, frequency] :
       {std::pair{0.5F, 0.0F}, {0.0F, 0.25F}, {1.5F, -2.0F}, {-2.0F, 2.0F}}) {
    LogitsProcessor processor = answer_penalties(presence, frequency);
    for (const std::size_t prompt : {0, 3, 30, 1, 0}) {
      const auto scores = random_scores(20);
      const auto sequence = random_sequence(30, 20);
      const Sequence answer(sequence.begin() + static_cast<std::ptrdiff_t>(prompt), sequence.end());
      EXPECT_EQ(processed(processor, scores, sequence, prompt),
                naive_answer_penalties(scores, answer, presence, frequency))
          << presence << ' ' << frequency << ' ' << prompt;
    }
  }
  LogitsProcessor processor = answer_penalties(1, 0.5F);
  EXPECT_EQ(processed(processor, {4, 4, 4}, {0, 0, 1, 1, 1}, 2), (std::vector<float>{4, 1.5F, 4}));
  // Whatever the vocabulary.
  EXPECT_EQ(processed(processor, {4}, {-1, 0, 7, 0}), std::vector<float>{2});
}

TEST_F(LogitsProcessors, BiasesAreAddedAndRuleOut) {
  LogitsProcessor processor = logit_bias({{0, 1.5F}, {2, -100}, {3, -kInfinity}, {9, 5}, {-1, 5}});
  EXPECT_EQ(processed(processor, {1, 1, 1, 1}, {}), (std::vector<float>{2.5F, 1, -99, kLowest}));
  EXPECT_EQ(processed(processor, {-kInfinity}, {}), std::vector<float>{kLowest});
}

}  // namespace
}  // namespace tandem
