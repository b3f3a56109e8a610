// Norm, rotary embedding, activation and sums, on every table against double arithmetic.
#include <gtest/gtest.h>

#include <numbers>

#include "kernels/cases.h"

namespace tandem {
namespace {

using testing::Random;

std::vector<const Kernels*> all_tables() { return available_kernels(detect_cpu_features()); }
const std::vector<std::int64_t> kSizes = {1, 7, 8, 15, 16, 17, 63, 64, 65, 576, 2048};

TEST(Elementwise, AddAndMul) {
  Random random(31);
  for (const std::int64_t n : kSizes) {
    const auto a = testing::normal_floats(random, n);
    const auto b = testing::normal_floats(random, n);
    for (const Kernels* table : all_tables()) {
      std::vector<float> sum(static_cast<std::size_t>(n) + 1, 7), product = sum;
      table->add(a.data(), b.data(), n, sum.data());
      table->mul(a.data(), b.data(), n, product.data());
      for (std::size_t i = 0; i < a.size(); ++i) {
        EXPECT_EQ(sum[i], a[i] + b[i]) << table->name;
        EXPECT_EQ(product[i], a[i] * b[i]) << table->name;
      }
      EXPECT_EQ(sum.back(), 7) << table->name;
      EXPECT_EQ(product.back(), 7) << table->name;
    }
  }
}

// x / (1 + e^-x) of doubles; the vector exponential is within 2 units in the last place, and so the
// quotient is within 4.
TEST(Elementwise, SiluIsWithinFourUnits) {
  std::vector<float> x;
  for (float value = -80; value < 80; value += 0.0137F) x.push_back(value);
  std::vector<float> y(x.size());
  for (const Kernels* table : all_tables()) {
    table->silu(x.data(), static_cast<std::int64_t>(x.size()), y.data());
    for (std::size_t i = 0; i < x.size(); ++i)
      EXPECT_LE(testing::ulps(y[i], x[i] / (1 + std::exp(-static_cast<double>(x[i])))), 4)
          << table->name << " " << x[i];
  }
}

TEST(Elementwise, SiluAtTheEnds) {
  const std::vector<float> x = {0, 1e4F, -1e4F, -100, INFINITY, NAN};
  std::vector<float> y(x.size());
  for (const Kernels* table : all_tables()) {
    table->silu(x.data(), static_cast<std::int64_t>(x.size()), y.data());
    EXPECT_EQ(y[0], 0) << table->name;
    EXPECT_EQ(y[1], 1e4F) << table->name;
    EXPECT_NEAR(y[2], 0, 1e-30) << table->name;
    EXPECT_NEAR(y[3], 0, 1e-30) << table->name;
    EXPECT_EQ(y[4], INFINITY) << table->name;
    EXPECT_TRUE(std::isnan(y[5])) << table->name;
  }
}

// For |x| up to 4 the exponent is at most 11, so each of its four roundings in float32 moves the
// result by 2^-21 of it, 4 units in the last place; 4 more are SiLU's. Further out the result is x
// or next to nothing.
TEST(Elementwise, GeluIsNearTheFormulaWithTanh) {
  std::vector<float> x;
  for (float value = -12; value < 12; value += 0.00173F) x.push_back(value);
  std::vector<float> y(x.size());
  for (const Kernels* table : all_tables()) {
    table->gelu(x.data(), static_cast<std::int64_t>(x.size()), y.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double v = x[i];
      const double expected =
          v / (1 + std::exp(-2 * std::sqrt(2 / std::numbers::pi) * (v + 0.044715 * v * v * v)));
      if (std::abs(v) <= 4) {
        EXPECT_LE(testing::ulps(y[i], expected), 20) << table->name << " " << v;
      } else {
        EXPECT_NEAR(y[i], expected, 1e-6 * std::abs(v)) << table->name << " " << v;
      }
    }
  }
}

TEST(Elementwise, GeluAndSoftcapAtTheEnds) {
  const std::vector<float> x = {0, 1e4F, -1e4F, NAN};
  std::vector<float> y(x.size());
  for (const Kernels* table : all_tables()) {
    table->gelu(x.data(), static_cast<std::int64_t>(x.size()), y.data());
    EXPECT_EQ(y[0], 0) << table->name;
    EXPECT_EQ(y[1], 1e4F) << table->name;
    EXPECT_NEAR(y[2], 0, 1e-30) << table->name;
    EXPECT_TRUE(std::isnan(y[3])) << table->name;
    table->softcap(x.data(), 30, static_cast<std::int64_t>(x.size()), y.data());
    EXPECT_NEAR(y[0], 0, 1e-5) << table->name;
    EXPECT_EQ(y[1], 30) << table->name;
    EXPECT_EQ(y[2], -30) << table->name;
    EXPECT_TRUE(std::isnan(y[3])) << table->name;
  }
}

TEST(Elementwise, SoftcapBendsTowardsTheCap) {
  Random random(34);
  for (const std::int64_t n : kSizes) {
    const auto x = testing::normal_floats(random, n, 20);
    for (const Kernels* table : all_tables()) {
      std::vector<float> y(static_cast<std::size_t>(n) + 1, 7);
      table->softcap(x.data(), 30, n, y.data());
      for (std::size_t i = 0; i < x.size(); ++i)
        EXPECT_NEAR(y[i], 30 * std::tanh(x[i] / 30.0), 1e-5) << table->name << " " << n;
      EXPECT_EQ(y.back(), 7) << table->name;
    }
  }
}

TEST(Elementwise, RmsNorm) {
  Random random(32);
  for (const std::int64_t n : kSizes) {
    const auto x = testing::normal_floats(random, n, 10);
    const auto weight = testing::normal_floats(random, n);
    double squares = 0;
    for (const float value : x) squares += static_cast<double>(value) * value;
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-5);
    for (const Kernels* table : all_tables()) {
      std::vector<float> y(static_cast<std::size_t>(n) + 1, 7);
      table->rms_norm(x.data(), weight.data(), 1e-5F, n, y.data());
      for (std::size_t i = 0; i < x.size(); ++i)
        EXPECT_LE(testing::ulps(y[i], x[i] * inverse * weight[i]), 4) << table->name << " " << n;
      EXPECT_EQ(y.back(), 7) << table->name;
    }
  }
}

TEST(Elementwise, RopeRotatesHalves) {
  Random random(33);
  struct Case {
    std::int64_t head_dim, rotary_dim;
  };
  for (const auto& [head_dim, rotary_dim] :
       {Case{64, 64}, {128, 128}, {12, 12}, {80, 32}, {96, 96}}) {
    const std::int64_t heads = 3, half = rotary_dim / 2;
    const auto x = testing::normal_floats(random, heads * head_dim);
    std::vector<float> cos, sin;
    for (std::int64_t i = 0; i < half; ++i) {
      cos.push_back(std::cos(static_cast<float>(i)));
      sin.push_back(std::sin(static_cast<float>(i)));
    }
    for (const Kernels* table : all_tables()) {
      std::vector<float> y = x;
      table->rope(y.data(), heads, head_dim, rotary_dim, cos.data(), sin.data());
      for (std::int64_t i = 0; i < heads * head_dim; ++i) {
        const std::int64_t d = i % head_dim;
        double expected = x[static_cast<std::size_t>(i)];
        if (d < rotary_dim) {
          const auto c = static_cast<std::size_t>(d % half);
          const double other = d < half ? -x[static_cast<std::size_t>(i + half)]
                                        : x[static_cast<std::size_t>(i - half)];
          expected = expected * cos[c] + other * sin[c];
        }
        EXPECT_NEAR(y[static_cast<std::size_t>(i)], expected, 1e-6) << table->name;
      }
    }
  }
}

}  // namespace
}  // namespace tandem
