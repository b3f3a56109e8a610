// Divergences and standard errors, against figures that NumPy and SciPy gave.
#include "base/logits.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace tandem {
namespace {

// scipy.special.logsumexp, and scipy.stats.entropy(softmax(p), softmax(q)).
TEST(CompareLogits, GivesWhatSciPyGives) {
  const std::vector<float> p = {0.5F, -1.25F, 3.0F, 0.0F, 2.75F};
  const std::vector<float> q = {1.0F, -1.0F, 2.5F, -4.0F, 3.0F};
  EXPECT_NEAR(log_sum_exp(p), 3.654893283554803, 1e-12);
  EXPECT_NEAR(negative_log_likelihood(p, 1), 3.654893283554803 + 1.25, 1e-12);
  const Disagreement apart = compare_logits(p, q);
  EXPECT_NEAR(apart.kl, 0.14992709916129698, 1e-12);
  EXPECT_FALSE(apart.same_top);
  const Disagreement same = compare_logits(p, p);
  EXPECT_EQ(same.kl, 0);
  EXPECT_TRUE(same.same_top);
  // Neither overflows nor vanishes.
  const std::vector<float> large = {10000, 9999, -10000};
  EXPECT_NEAR(log_sum_exp(large), 10000 + std::log1p(std::exp(-1.0)), 1e-9);
  EXPECT_TRUE(std::isfinite(compare_logits(large, std::vector<float>{-10000, 0, 10000}).kl));
}

// numpy: x.mean(1).std(ddof=1) / sqrt(3), x.std(ddof=1) / sqrt(4).
TEST(WindowMean, TakesWindowsAsIndependent) {
  WindowMean mean;
  EXPECT_EQ(mean.mean(), 0);
  EXPECT_EQ(mean.error(), 0);
  EXPECT_EQ(mean.quantile(0.5), 0);
  mean.add(std::vector<double>{1, 2, 3, 10});
  EXPECT_NEAR(mean.error(), 2.041241452319315, 1e-12);
  mean.add(std::vector<double>{2, 2, 2, 5});
  mean.add(std::vector<double>{0, -1, 4, 4});
  EXPECT_NEAR(mean.mean(), 2.8333333333333335, 1e-12);
  EXPECT_NEAR(mean.error(), 0.6508541396588879, 1e-12);
  EXPECT_EQ(mean.quantile(1), 10);
  EXPECT_EQ(mean.quantile(0), -1);
  EXPECT_EQ(mean.quantile(0.5), 2);
  WindowMean one;
  one.add(std::vector<double>{7});
  EXPECT_EQ(one.error(), 0);
}

}  // namespace
}  // namespace tandem
