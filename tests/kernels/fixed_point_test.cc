// Real numbers as an integer factor and a shift, and multiplying by them.
#include "kernels/fixed_point.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

namespace tandem {
namespace {

double value_of(const FixedMultiplier& m) {
  return std::ldexp(static_cast<double>(m.factor), -m.shift);
}

TEST(FixedPoint, HasThirtyOneBits) {
  std::mt19937 random(5);
  for (int i = 0; i < 10'000; ++i) {
    const double value = std::ldexp(1 + std::uniform_real_distribution<double>()(random),
                                    static_cast<int>(random() % 61) - 31);
    const FixedMultiplier m = fixed_multiplier(value);
    EXPECT_NEAR(value_of(m), value, std::ldexp(value, -30));
    EXPECT_LT(m.factor, std::int64_t{1} << 31);
    EXPECT_GE(m.shift, 0);
    EXPECT_LE(m.shift, 62);
  }
  // Powers of two are exact.
  for (int e = -31; e < 31; ++e)
    EXPECT_EQ(value_of(fixed_multiplier(std::ldexp(1, e))), std::ldexp(1, e));
}

TEST(FixedPoint, EndsWhereItsBitsDo) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double none : {0.0, -1.0, -infinity, std::nan("")})
    EXPECT_EQ(fixed_multiplier(none).factor, 0);
  for (const double huge : {2147483648.0, 1e300, infinity})
    EXPECT_EQ(value_of(fixed_multiplier(huge)), 2147483647.0);
  EXPECT_NEAR(value_of(fixed_multiplier(1e-15)), 1e-15, std::ldexp(1, -63));
  EXPECT_EQ(fixed_multiplier(1e-30).factor, 0);
}

TEST(FixedPoint, RoundsHalfUpAndSaturates) {
  std::mt19937 random(6);
  const auto any = [&] { return static_cast<std::int64_t>(static_cast<std::int32_t>(random())); };
  for (int i = 0; i < 100'000; ++i) {
    const FixedMultiplier m{static_cast<std::int64_t>(random() >> 1),
                            static_cast<int>(random() % 63)};
    const std::int64_t v = any() >> (random() % 32);
    // The floor, and what is left above it.
    const std::int64_t floor = (v * m.factor) >> m.shift;
    const std::int64_t rest = v * m.factor - floor * (std::int64_t{1} << m.shift);
    const bool up = m.shift > 0 && rest >= std::int64_t{1} << (m.shift - 1);
    for (const std::int32_t most : {127, 32767})
      EXPECT_EQ(requantize(v, m, most),
                std::clamp<std::int64_t>(floor + (up ? 1 : 0), -most, most));
  }
  const FixedMultiplier half{1, 1};
  EXPECT_EQ(requantize(3, half, 127), 2);
  EXPECT_EQ(requantize(-3, half, 127), -1);
  EXPECT_EQ(requantize(-1'000'000, half, 127), -127);
  EXPECT_EQ(requantize(std::int64_t{1} << 31, {(std::int64_t{1} << 31) - 1, 0}, 32767), 32767);
}

}  // namespace
}  // namespace tandem
