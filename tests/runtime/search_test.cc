// Choosing tokens: ties, the chain of processors and its order, log-probabilities after it, and
// invalid options.
#include "runtime/search.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support.h"

namespace tandem {
namespace {

using testing::error_of;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TokenId greedy(const std::vector<float>& logits, SearchOptions options = {},
               const std::vector<TokenId>& sequence = {0}) {
  return Search(std::move(options)).choose(logits, sequence).id;
}

SearchOptions sampling(float temperature, std::int64_t top_k, float top_p) {
  SearchOptions options;
  options.do_sample = true;
  options.temperature = temperature;
  options.top_k = top_k;
  options.top_p = top_p;
  options.seed = 42;
  return options;
}

TEST(Search, TakesTheLowestIdOfEqualOnes) {
  EXPECT_EQ(greedy({1, 3, 2, 3}), 1);
  EXPECT_EQ(greedy({0, 0, 0}), 0);
  EXPECT_EQ(greedy({-0.0F, 0.0F}), 0);
  EXPECT_EQ(greedy({-kInfinity, -5}), 1);
  EXPECT_EQ(greedy({5}), 0);
  // Sampling among one candidate is greedy, with the same ties.
  EXPECT_EQ(Search(sampling(1, 1, 1)).choose(std::vector<float>{1, 3, 2, 3}, {}).id, 1);
  EXPECT_EQ(Search(sampling(1, 0, 1e-6F)).choose(std::vector<float>{1, 3, 2, 3}, {}).id, 1);
}

TEST(Search, RepeatsItselfForItsSeed) {
  const std::vector<float> logits(100, 0.0F);
  const auto draw = [&](std::int64_t seed) {
    SearchOptions options = sampling(1, 0, 1);
    options.seed = seed;
    Search search(options);
    std::vector<TokenId> ids;
    for (int i = 0; i < 20; ++i) ids.push_back(search.choose(logits, ids).id);
    return ids;
  };
  EXPECT_EQ(draw(7), draw(7));
  EXPECT_EQ(draw(0), draw(0));
  EXPECT_NE(draw(7), draw(8));
  EXPECT_NE(draw(-1), draw(-1));  // from the system: equal once in 100^20
}

TEST(Search, PenalizesEachTokenOnce) {
  SearchOptions options;
  options.repetition_penalty = 2;
  EXPECT_EQ(greedy({3, 4, 1}, options, {2}), 1);
  EXPECT_EQ(greedy({3, 4, 1}, options, {1}), 0);           // 4 / 2 < 3
  EXPECT_EQ(greedy({0.9F, 4, 1}, options, {1, 1, 1}), 1);  // not 4 / 8
  EXPECT_EQ(greedy({-3, -2, -5}, options, {1}), 0);        // -2 * 2 < -3
  options.repetition_penalty = 0.5F;                       // a reward
  EXPECT_EQ(greedy({3, 4, 1}, options, {0}), 0);
}

// Against the definition: after a b … a, b is ruled out.
TEST(Search, RepeatsNoRunOfTokens) {
  SearchOptions options;
  options.no_repeat_ngram_size = 3;
  Search search(options);
  const std::vector<float> logits = {1, 5, 4, 3};
  EXPECT_EQ(search.choose(logits, std::vector<TokenId>{2, 3, 1, 2, 3}).id, 2);
  EXPECT_EQ(search.choose(logits, std::vector<TokenId>{2, 3, 1, 2, 3, 2, 2, 3}).id, 3);
  EXPECT_EQ(search.choose(logits, std::vector<TokenId>{2, 3, 1, 3, 2}).id, 1);
  EXPECT_EQ(search.choose(logits, std::vector<TokenId>{2, 3}).id, 1);
  EXPECT_EQ(search.choose(logits, {}).id, 1);
  options.no_repeat_ngram_size = 1;
  EXPECT_EQ(Search(options).choose(logits, std::vector<TokenId>{1, 2}).id, 3);
}

TEST(Search, HoldsEndTokensBackUntilMinLength) {
  SearchOptions options;
  options.eos = {1, 3, 77};  // one of them beyond the vocabulary
  options.min_length = 3;
  const std::vector<float> logits = {0, 9, 1, 8};
  EXPECT_EQ(greedy(logits, options, {0, 0}), 2);
  EXPECT_EQ(greedy(logits, options, {0, 0, 0}), 1);
  options.repetition_penalty = 3;  // the lowest score times three is no number's neighbour
  EXPECT_EQ(greedy(logits, options, {1, 3}), 2);
  SearchOptions sampled = sampling(1, 0, 1);
  sampled.eos = options.eos;
  sampled.min_length = 3;
  Search search(sampled);
  for (int i = 0; i < 100; ++i) {
    const TokenId id = search.choose(logits, std::vector<TokenId>{0, 0}).id;
    EXPECT_TRUE(id == 0 || id == 2);
  }
}

// As Sampler.DrawsWhatItsSeedAlwaysDrew, through the chain.
TEST(Search, DrawsWhatItsSeedAlwaysDrew) {
  std::vector<float> logits;
  for (int i = 0; i < 50; ++i) logits.push_back(static_cast<float>(i * 37 % 50) * 0.125F - 3);
  const auto draw = [&](SearchOptions options, float penalty, std::int64_t min_length) {
    options.repetition_penalty = penalty;
    options.min_length = min_length;
    options.seed = 1234;
    options.eos = {27};
    Search search(options);
    std::vector<TokenId> ids;
    for (int i = 0; i < 16; ++i) ids.push_back(search.choose(logits, ids).id);
    return ids;
  };
  EXPECT_EQ(draw(sampling(2, 0, 0.875F), 1.5F, 0),
            (std::vector<TokenId>{2, 27, 6, 2, 8, 29, 21, 2, 31, 9, 29, 35, 8, 10, 12, 13}));
  EXPECT_EQ(draw(sampling(1.5F, 20, 0.75F), 2, 8),
            (std::vector<TokenId>{24, 4, 28, 4, 8, 5, 4, 8, 27, 47, 8, 31, 43, 43, 35, 8}));
}

// One search for the rows of a batch, and for a sequence that is rewound, chooses as a search of
// its own would for every call.
TEST(Search, RemembersNoSequence) {
  SearchOptions options;
  options.repetition_penalty = 2;
  options.min_length = 3;
  options.eos = {0};
  options.logprobs = 0;
  const std::vector<float> logits = {9, 8, 7, 6, 5, 4.5F};
  Search search(options);
  for (const std::vector<TokenId>& sequence : {std::vector<TokenId>{1},
                                               {5, 4},
                                               {1, 2},
                                               {5, 4, 0},
                                               {1, 2, 3},
                                               {5, 4, 0, 1},
                                               {1},
                                               {},
                                               {5},
                                               {1, 2, 1}}) {
    const Choice expected = Search(options).choose(logits, sequence);
    const Choice choice = search.choose(logits, sequence);
    EXPECT_EQ(choice.id, expected.id);
    EXPECT_EQ(choice.log_probability, expected.log_probability);
  }
  // Not all of them choose alike, or nothing would be shown.
  EXPECT_EQ(search.choose(logits, std::vector<TokenId>{1}).id, 2);
  EXPECT_EQ(search.choose(logits, std::vector<TokenId>{5, 4, 0}).id, 1);
  EXPECT_EQ(search.choose(logits, std::vector<TokenId>{5, 4, 4}).id, 0);
}

TEST(Search, AppliesAddedProcessorsAfterItsOwnInTheirOrder) {
  SearchOptions options;
  options.repetition_penalty = 2;
  options.min_length = 10;
  options.eos = {0};
  Search search(options);
  const std::vector<float> logits = {9, 8, 6, 5};
  const std::vector<TokenId> sequence = {1};
  std::vector<float> seen;
  search.add([&](std::span<float> scores, std::span<const TokenId> given, std::size_t) {
    seen.assign(scores.begin(), scores.end());
    EXPECT_EQ(std::vector<TokenId>(given.begin(), given.end()), sequence);
    scores[3] += 10;
  });
  search.add(
      [](std::span<float> scores, std::span<const TokenId>, std::size_t) { scores[3] *= -1; });
  EXPECT_EQ(search.choose(logits, sequence).id, 2);
  // The end token was held back first and is none of the sequence's.
  EXPECT_EQ(seen, (std::vector<float>{std::numeric_limits<float>::lowest(), 4, 6, 5}));
  EXPECT_EQ(logits, (std::vector<float>{9, 8, 6, 5}));
  EXPECT_EQ(search.choose(logits, sequence).id, 2);  // what was added does not pile up

  // Processors reach a search that has none of its own, greedy or not.
  for (const SearchOptions& plain : {SearchOptions(), sampling(1, 0, 1)}) {
    Search masked(plain);
    masked.add([](std::span<float> scores, std::span<const TokenId>, std::size_t) {
      for (std::size_t id = 0; id < scores.size(); ++id)
        if (id != 2) scores[id] = -kInfinity;
    });
    for (int i = 0; i < 20; ++i) EXPECT_EQ(masked.choose(logits, {}).id, 2);
  }
}

TEST(Search, LogProbabilityIsOfTheProcessedScores) {
  SearchOptions options;
  options.repetition_penalty = 2;
  options.min_length = 10;
  options.eos = {0};
  const std::vector<float> logits = {9, 4, -1, 3};
  EXPECT_TRUE(std::isnan(Search(options).choose(logits, {}).log_probability));
  options.logprobs = 0;
  // 9 is held back, 4 / 2 and -1 * 2 are left beside 3.
  const Choice choice = Search(options).choose(logits, std::vector<TokenId>{1, 2});
  EXPECT_EQ(choice.id, 3);
  EXPECT_NEAR(choice.log_probability, 3 - std::log(std::exp(2.0) + std::exp(-2.0) + std::exp(3.0)),
              1e-6);
  options.min_length = 0;
  options.repetition_penalty = 1;
  const Choice plain = Search(options).choose(logits, std::vector<TokenId>{1, 2});
  EXPECT_EQ(plain.id, 0);
  EXPECT_NEAR(plain.log_probability,
              9 - std::log(std::exp(9.0) + std::exp(4.0) + std::exp(-1.0) + std::exp(3.0)), 1e-6);
}

// What was given is no part of the answer, and the bias comes before all else.
TEST(Search, PenalizesTheAnswerNotThePrompt) {
  SearchOptions options;
  options.presence_penalty = 1.5F;
  const std::vector<float> logits = {5, 4, 3};
  const std::vector<TokenId> sequence = {0, 0, 0};
  EXPECT_EQ(Search(options).choose(logits, sequence, 3).id, 0);
  EXPECT_EQ(Search(options).choose(logits, sequence, 2).id, 1);
  options.presence_penalty = 0;
  options.frequency_penalty = 0.75F;
  EXPECT_EQ(Search(options).choose(logits, sequence, 2).id, 0);
  EXPECT_EQ(Search(options).choose(logits, sequence, 1).id, 1);
  options.logit_bias = {{2, 2.5F}, {1, -100}};
  EXPECT_EQ(Search(options).choose(logits, sequence, 3).id, 2);
  options.repetition_penalty = 2;  // (3 + 2.5) / 2
  EXPECT_EQ(Search(options).choose(logits, std::vector<TokenId>{2}, 1).id, 0);
}

// A vocabulary of nothing but end tokens, too early.
TEST(Search, ChoosesAnEndTokenWhereThereIsNothingElse) {
  for (SearchOptions options : {SearchOptions(), sampling(1, 0, 1)}) {
    options.min_length = 5;
    options.eos = {0, 1};
    options.logprobs = 0;
    const Choice choice = Search(options).choose(std::vector<float>{1, 2}, {});
    EXPECT_TRUE(choice.id == 0 || choice.id == 1);
    EXPECT_FLOAT_EQ(choice.log_probability, std::log(0.5F));
  }
}

TEST(Search, RefusesProcessorsThatMakeNoSense) {
  Search search((SearchOptions()));
  EXPECT_EQ(error_of([&] { search.add({}); }),
            "[search] add: expected a processor, got an empty function");
  const std::vector<float> logits = {1, 2};
  EXPECT_EQ(search.choose(logits, {}).id, 1);
  search.add(
      [](std::span<float> scores, std::span<const TokenId>, std::size_t) { scores[0] = kNan; });
  EXPECT_EQ(error_of([&] { search.choose(logits, std::vector<TokenId>{1, 1}); }),
            "[search] a processed score is not a number after 2 tokens");
  EXPECT_NE(error_of([&] { search.choose({}, {}); }).find("got 0"), std::string::npos);
}

TEST(Search, RefusesLogitsThatAreNoNumbers) {
  EXPECT_NE(error_of([] {
              greedy({1, kNan, 2});
            }).find("[search] a logit is not a number after 1 tokens"),
            std::string::npos);
  for (const float top_p : {1.0F, 0.5F})
    for (const std::vector<float>& logits :
         {std::vector<float>{1, kInfinity, 2}, std::vector<float>{-kInfinity, -kInfinity}}) {
      Search search(sampling(1, 0, top_p));
      EXPECT_NE(error_of([&] { search.choose(logits, {}); }).find("expected a finite one"),
                std::string::npos);
    }
  // A penalty that takes a score out of the floats.
  SearchOptions options = sampling(1, 0, 0.9F);
  options.repetition_penalty = 1e-38F;
  Search search(options);
  const std::vector<float> logits = {1, 100};
  EXPECT_NE(error_of([&] { search.choose(logits, std::vector<TokenId>{1}); }).find("finite"),
            std::string::npos);
  // Tokens ruled out by the model are never drawn.
  Search ruled_out(sampling(1, 0, 1));
  for (int i = 0; i < 50; ++i)
    EXPECT_EQ(ruled_out.choose(std::vector<float>{-kInfinity, 3, -kInfinity}, {}).id, 1);
}

TEST(Search, SurvivesExtremeOptions) {
  const std::vector<float> logits = {1, 3e38F, -3e38F, 2};
  EXPECT_EQ(Search(sampling(1e-38F, 0, 1)).choose(logits, {}).id, 1);
  EXPECT_EQ(Search(sampling(1e-45F, 0, 0.5F)).choose(logits, {}).id, 1);
  EXPECT_EQ(Search(sampling(1, std::numeric_limits<std::int64_t>::max(), 1)).choose(logits, {}).id,
            1);
  const TokenId any = Search(sampling(3e38F, 0, 0.999F)).choose(logits, {}).id;
  EXPECT_TRUE(any >= 0 && any < 4);
}

TEST(Search, NamesTheOptionThatIsWrong) {
  const auto error = [](auto change) {
    SearchOptions options;
    change(options);
    return error_of([&] { Search search(options); });
  };
  for (const float bad : {0.0F, -1.0F, kNan, kInfinity}) {
    EXPECT_EQ(error([&](auto& o) { o.temperature = bad; }).rfind("[search] temperature: ", 0), 0U);
    EXPECT_EQ(error([&](auto& o) {
                o.repetition_penalty = bad;
              }).rfind("[search] repetition_penalty: ", 0),
              0U);
  }
  for (const float bad : {-0.5F, 1.01F, kNan})
    EXPECT_EQ(error([&](auto& o) {
                o.top_p = bad;
              }).rfind("[search] top_p: expected a number in [0, 1], got ", 0),
              0U);
  EXPECT_EQ(error([](auto& o) { o.top_k = -2; }), "[search] top_k: expected -1 or more, got -2");
  EXPECT_EQ(error([](auto& o) { o.min_length = -1; }),
            "[search] min_length: expected 0 or more, got -1");
  EXPECT_EQ(error([](auto& o) { o.max_length = -7; }),
            "[search] max_length: expected 0 or more, got -7");
}

}  // namespace
}  // namespace tandem
