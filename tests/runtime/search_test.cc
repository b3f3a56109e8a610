// Choosing tokens: ties, distributions against plain computation, penalties and bad options.
#include "runtime/search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "support.h"

namespace tandem {
namespace {

using testing::error_of;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TokenId greedy(const std::vector<float>& logits, SearchOptions options = {},
               const std::vector<TokenId>& sequence = {0}) {
  return Search(std::move(options)).choose(logits, sequence);
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
  EXPECT_EQ(Search(sampling(1, 1, 1)).choose(std::vector<float>{1, 3, 2, 3}, {}), 1);
  EXPECT_EQ(Search(sampling(1, 0, 1e-6F)).choose(std::vector<float>{1, 3, 2, 3}, {}), 1);
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

TEST(Search, DrawsFromTheDistributionOfItsOptions) {
  const std::vector<float> logits = {0.5F, 2, -1, 2, 1.25F, -3, 0, 1.75F};
  for (const auto& options :
       {sampling(1, 0, 1), sampling(0.5F, 0, 1), sampling(3, 0, 1), sampling(1, 3, 1),
        sampling(1, 1000, 1), sampling(1, 0, 0.6F), sampling(1, 4, 0.8F), sampling(2, 0, 0.95F)}) {
    const auto expected = distribution(logits, options);
    Search search(options);
    std::map<TokenId, int> counts;
    constexpr int kDraws = 20000;
    for (int i = 0; i < kDraws; ++i) ++counts[search.choose(logits, {})];
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

TEST(Search, RepeatsItselfForItsSeed) {
  const std::vector<float> logits(100, 0.0F);
  const auto draw = [&](std::int64_t seed) {
    SearchOptions options = sampling(1, 0, 1);
    options.seed = seed;
    Search search(options);
    std::vector<TokenId> ids;
    for (int i = 0; i < 20; ++i) ids.push_back(search.choose(logits, ids));
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
    const TokenId id = search.choose(logits, std::vector<TokenId>{0, 0});
    EXPECT_TRUE(id == 0 || id == 2);
  }
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
    EXPECT_EQ(ruled_out.choose(std::vector<float>{-kInfinity, 3, -kInfinity}, {}), 1);
}

TEST(Search, SurvivesExtremeOptions) {
  const std::vector<float> logits = {1, 3e38F, -3e38F, 2};
  EXPECT_EQ(Search(sampling(1e-38F, 0, 1)).choose(logits, {}), 1);
  EXPECT_EQ(Search(sampling(1e-45F, 0, 0.5F)).choose(logits, {}), 1);
  EXPECT_EQ(Search(sampling(1, std::numeric_limits<std::int64_t>::max(), 1)).choose(logits, {}), 1);
  const TokenId any = Search(sampling(3e38F, 0, 0.999F)).choose(logits, {});
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
  for (const float bad : {0.0F, -0.5F, 1.01F, kNan})
    EXPECT_EQ(error([&](auto& o) {
                o.top_p = bad;
              }).rfind("[search] top_p: expected a number in (0, 1], got ", 0),
              0U);
  EXPECT_EQ(error([](auto& o) { o.top_k = -1; }), "[search] top_k: expected 0 or more, got -1");
  EXPECT_EQ(error([](auto& o) { o.min_length = -1; }),
            "[search] min_length: expected 0 or more, got -1");
  EXPECT_EQ(error([](auto& o) { o.max_length = -7; }),
            "[search] max_length: expected 0 or more, got -7");
}

}  // namespace
}  // namespace tandem
