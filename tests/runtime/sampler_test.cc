// The sampler: draws against the distribution by its definition, the random stream of a seed, and
// log-probabilities against a softmax in double precision.
#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "support.h"

namespace tandem {
namespace {

using testing::error_of;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();

SearchOptions sampling(float temperature, std::int64_t top_k, float top_p) {
  SearchOptions options;
  options.do_sample = true;
  options.temperature = temperature;
  options.top_k = top_k;
  options.top_p = top_p;
  options.seed = 42;
  return options;
}

TEST(Sampler, MinPLeavesWhatIsLikelyEnough) {
  // Probabilities 8 : 4 : 2 : 1, at temperature 2 their roots.
  const std::vector<float> scores = {std::log(8.0F), std::log(4.0F), std::log(2.0F), 0};
  const auto drawn = [&](float temperature, float min_p) {
    SearchOptions options = sampling(temperature, 0, 1);
    options.min_p = min_p;
    Sampler sampler(options);
    std::set<TokenId> ids;
    for (int i = 0; i < 2000; ++i) ids.insert(sampler.choose(scores).id);
    return ids.size();
  };
  EXPECT_EQ(drawn(1, 0), 4u);
  EXPECT_EQ(drawn(1, 0.24F), 3u);
  EXPECT_EQ(drawn(1, 0.26F), 2u);
  EXPECT_EQ(drawn(2, 0.26F), 4u);
  EXPECT_EQ(drawn(1, 1), 1u);
}

// Log-softmax by its definition, without the subtraction of the highest score.
double naive_log_probability(const std::vector<float>& scores, TokenId id) {
  double total = 0;
  for (const float score : scores) total += std::exp(static_cast<double>(score));
  return std::log(std::exp(static_cast<double>(scores[static_cast<std::size_t>(id)])) / total);
}

// The distribution by its definition: the k highest (lower ids first), softmax at the temperature,
// the smallest prefix whose sum reaches p, made whole again.
std::map<TokenId, double> distribution(const std::vector<float>& logits,
                                       const SearchOptions& options) {
  std::vector<TokenId> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto logit = [&](TokenId id) { return logits[static_cast<std::size_t>(id)]; };
  std::sort(order.begin(), order.end(), [&](TokenId a, TokenId b) {
    return logit(a) != logit(b) ? logit(a) > logit(b) : a < b;
  });
  if (options.top_k > 0)
    order.resize(std::min(order.size(), static_cast<std::size_t>(options.top_k)));
  double total = 0;
  for (const TokenId id : order) total += std::exp(logit(id) / options.temperature);
  std::map<TokenId, double> kept;
  double sum = 0;
  for (const TokenId id : order) {
    const double p = std::exp(logit(id) / options.temperature) / total;
    kept[id] = p;
    sum += p;
    if (sum >= options.top_p) break;
  }
  for (auto& [id, p] : kept) p /= sum;
  return kept;
}

TEST(Sampler, DrawsFromTheDistributionOfItsOptions) {
  const std::vector<float> logits = {0.5F, 2, -1, 2, 1.25F, -3, 0, 1.75F};
  for (const auto& options :
       {sampling(1, 0, 1), sampling(0.5F, 0, 1), sampling(3, 0, 1), sampling(1, 3, 1),
        sampling(1, 1000, 1), sampling(1, 0, 0.6F), sampling(1, 4, 0.8F), sampling(2, 0, 0.95F)}) {
    const auto expected = distribution(logits, options);
    Sampler sampler(options);
    std::map<TokenId, int> counts;
    constexpr int kDraws = 20000;
    for (int i = 0; i < kDraws; ++i) ++counts[sampler.choose(logits).id];
    double chi_square = 0;
    for (const auto& [id, p] : expected) {
      chi_square += std::pow(counts[id] - kDraws * p, 2) / (kDraws * p);
      counts.erase(id);
    }
    EXPECT_TRUE(counts.empty()) << "drew a token that was cut off";
    // The seed is fixed, so this is no game of chance: 24.3 is exceeded once in a thousand at 7
    // degrees of freedom, and fewer degrees stay below it more often still.
    EXPECT_LT(chi_square, 24.3) << options.temperature << ' ' << options.top_k << ' '
                                << options.top_p;
  }
}

// A text must not change with a release: these ids were drawn by the first version of the sampler.
TEST(Sampler, DrawsWhatItsSeedAlwaysDrew) {
  std::vector<float> scores;
  for (int i = 0; i < 50; ++i) scores.push_back(static_cast<float>(i * 37 % 50) * 0.125F - 3);
  const auto draw = [&](SearchOptions options) {
    options.seed = 1234;
    Sampler sampler(options);
    std::vector<TokenId> ids;
    for (int i = 0; i < 16; ++i) ids.push_back(sampler.choose(scores).id);
    return ids;
  };
  EXPECT_EQ(draw(sampling(1, 0, 1)),
            (std::vector<TokenId>{48, 27, 33, 48, 4, 48, 36, 21, 27, 24, 48, 27, 12, 10, 4, 24}));
  EXPECT_EQ(draw(sampling(0.75F, 10, 1)),
            (std::vector<TokenId>{43, 27, 20, 43, 27, 43, 16, 43, 27, 12, 43, 27, 31, 20, 27, 12}));
  // Asking for log-probabilities takes nothing from the stream.
  SearchOptions asked = sampling(1, 0, 1);
  asked.logprobs = 0;
  EXPECT_EQ(draw(asked), draw(sampling(1, 0, 1)));
}

TEST(Sampler, LogProbabilityIsTheSoftmaxOfAllScores) {
  std::mt19937_64 random(5);
  std::normal_distribution<float> normal(0, 4);
  std::vector<float> scores(1000);
  for (float& score : scores) score = normal(random);
  double sum = 0;
  for (TokenId id = 0; id < 1000; ++id) {
    const float got = log_probability(scores, id);
    EXPECT_NEAR(got, naive_log_probability(scores, id), 1e-6 * std::abs(got)) << id;
    sum += std::exp(static_cast<double>(got));
  }
  EXPECT_NEAR(sum, 1, 1e-5);

  EXPECT_EQ(log_probability(std::vector<float>{7}, 0), 0);
  EXPECT_FLOAT_EQ(log_probability(std::vector<float>{2, 2, 2, 2}, 3), std::log(0.25F));
  // Scores whose exponentials leave the floats, and doubles.
  EXPECT_FLOAT_EQ(log_probability(std::vector<float>{1e4F, 1e4F}, 0), std::log(0.5F));
  EXPECT_FLOAT_EQ(log_probability(std::vector<float>{1e4F, 0}, 1), -1e4F);
  EXPECT_FLOAT_EQ(log_probability(std::vector<float>{-2e4F, -2e4F}, 0), std::log(0.5F));
  // Tokens that are ruled out take no share; what can't be said in a float is the lowest one.
  EXPECT_FLOAT_EQ(log_probability(std::vector<float>{-kInfinity, 1, kLowest, 1}, 1),
                  std::log(0.5F));
  EXPECT_EQ(log_probability(std::vector<float>{-kInfinity, 1}, 0), kLowest);
  EXPECT_EQ(log_probability(std::vector<float>{3e38F, -3e38F}, 1), kLowest);
  EXPECT_FLOAT_EQ(log_probability(std::vector<float>{kLowest, kLowest}, 0), std::log(0.5F));
}

TEST(Sampler, LogProbabilityKnowsNothingOfTheSamplingSettings) {
  const std::vector<float> scores = {0.5F, 2, -1, 2, 1.25F, -3, 0, 1.75F};
  SearchOptions greedy;
  for (SearchOptions options : {greedy, sampling(0.1F, 0, 1), sampling(5, 0, 1), sampling(1, 1, 1),
                                sampling(1, 3, 0.5F), sampling(2, 0, 0.9F)}) {
    Sampler silent(options);
    EXPECT_TRUE(std::isnan(silent.choose(scores).log_probability));
    options.logprobs = 0;
    Sampler sampler(options);
    for (int i = 0; i < 20; ++i) {
      const Choice choice = sampler.choose(scores);
      EXPECT_NEAR(choice.log_probability, naive_log_probability(scores, choice.id), 1e-6);
    }
  }
}

TEST(Sampler, RefusesScoresThatGiveNoDistribution) {
  const std::vector<float> infinite = {1, kInfinity, 2};
  const std::vector<float> impossible = {-kInfinity, -kInfinity};
  SearchOptions greedy;
  EXPECT_EQ(Sampler(greedy).choose(infinite).id, 1);
  EXPECT_EQ(Sampler(greedy).choose(impossible).id, 0);
  greedy.logprobs = 0;
  for (const auto& scores : {infinite, impossible}) {
    EXPECT_NE(error_of([&] {
                Sampler(greedy).choose(scores);
              }).find("expected a finite one for a log-probability"),
              std::string::npos);
    EXPECT_NE(error_of([&] {
                Sampler(sampling(1, 0, 1)).choose(scores);
              }).find("expected a finite one to sample"),
              std::string::npos);
  }
  for (const SearchOptions& options : {greedy, sampling(1, 0, 1)})
    EXPECT_EQ(error_of([&] { Sampler(options).choose({}); }),
              "[search] scores: expected one per token of the vocabulary, got 0");
}

TEST(Sampler, NamesTheLikeliest) {
  const std::vector<float> scores = {1, 3, -2, 3, 0};
  SearchOptions options = sampling(0.5F, 0, 0.9F);
  for (const bool sample : {true, false}) {
    options.do_sample = sample;
    options.logprobs = 3;
    const Choice choice = Sampler(options).choose(scores);
    ASSERT_EQ(choice.likeliest.size(), 3U);
    const std::vector<TokenId> expected = {1, 3, 0};
    for (std::size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(choice.likeliest[i].id, expected[i]);
      EXPECT_NEAR(choice.likeliest[i].log_probability, naive_log_probability(scores, expected[i]),
                  1e-6);
    }
    EXPECT_NEAR(choice.log_probability, naive_log_probability(scores, choice.id), 1e-6);
    // No more than there are.
    options.logprobs = 20;
    EXPECT_EQ(Sampler(options).choose(scores).likeliest.size(), 5U);
    options.logprobs = 0;
    EXPECT_TRUE(Sampler(options).choose(scores).likeliest.empty());
  }
}

}  // namespace
}  // namespace tandem
