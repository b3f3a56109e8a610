// The operations around an integer product when static int8 is represented by separate nodes: sums
// to floats, sums to codes of another scale, Hadamard transforms, products with what codes clip. On every table, against plain
// formulas.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/cases.h"
#include "tensor/half.h"

namespace tandem {
namespace {

using testing::Random;

std::vector<const Kernels*> all_tables() { return available_kernels(detect_cpu_features()); }

constexpr std::int32_t kLowest = std::numeric_limits<std::int32_t>::min();
constexpr std::int32_t kHighest = std::numeric_limits<std::int32_t>::max();

std::vector<std::int32_t> random_sums(Random& random, std::int64_t n, int largest) {
  std::vector<std::int32_t> sums(static_cast<std::size_t>(n));
  for (std::int32_t& sum : sums) sum = testing::uniform(random, -largest, largest);
  return sums;
}

TEST(Dequantize, FollowsItsFormula) {
  Random random(31);
  for (const Kernels* table : all_tables())
    for (const std::int64_t n : {1, 3, 15, 16, 17, 64, 65, 257}) {
      const auto sums = random_sums(random, n, 1 << 30);
      const std::vector<float> scales = testing::normal_floats(random, n);
      const std::vector<float> bias = testing::normal_floats(random, n, 1e6F);
      for (const bool per_channel : {false, true})
        for (const float* b : {static_cast<const float*>(nullptr), bias.data()}) {
          std::vector<float> y(static_cast<std::size_t>(n) + 1, 77);
          table->dequantize(sums.data(), n, scales.data(), per_channel, 0.037F, b, y.data());
          for (std::size_t c = 0; c < sums.size(); ++c) {
            const volatile float factor = 0.037F * scales[per_channel ? c : 0];
            const volatile float value = static_cast<float>(sums[c]) * factor;
            EXPECT_EQ(y[c], b ? value + b[c] : value) << table->name << " n " << n << " c " << c;
          }
          EXPECT_EQ(y.back(), 77);
        }
    }
}

// A product in two steps rounds like the one that does both.
TEST(Dequantize, OfSumsIsLinearInt8) {
  Random random(32);
  const std::int64_t n = 130, k = 70, rows = 7;
  for (const bool per_tensor : {false, true}) {
    const ChannelCodes weight = testing::int8_weight(random, n, k, false, per_tensor);
    const testing::Packed packed(weight);
    const testing::Int8Activations x(random, rows, k);
    const StaticInt8Rows input = x.rows_from(0);
    const std::vector<float> bias = testing::normal_floats(random, n);
    for (const Kernels* table : all_tables()) {
      std::vector<float> expected(static_cast<std::size_t>(rows * n)), y = expected;
      std::vector<std::int32_t> sums(expected.size());
      table->linear_int8(packed.layout, packed.panels.data(), packed.all(), input, rows,
                         {expected.data(), n, bias.data()});
      table->linear_int8_sums(packed.layout, packed.panels.data(), packed.all(), input, rows,
                              sums.data(), n);
      for (std::int64_t r = 0; r < rows; ++r)
        table->dequantize(sums.data() + r * n, n, weight.scales.as<float>().data(), !per_tensor,
                          input.scale, bias.data(), y.data() + r * n);
      EXPECT_EQ(y, expected) << table->name;
    }
  }
}

// floor(v * 2^-shift + 1/2), saturated; exact in long double for these shifts.
template <typename Code>
Code rounded(std::int32_t v, int shift) {
  const long double scaled = std::ldexp(static_cast<long double>(v), -shift);
  const long double whole = shift > 0 ? std::floor(scaled + 0.5L) : scaled;
  const long double low = std::numeric_limits<Code>::min();
  const long double high = std::numeric_limits<Code>::max();
  return static_cast<Code>(whole < low ? low : whole > high ? high : whole);
}

TEST(Requantize, FollowsItsFormula) {
  Random random(33);
  for (const Kernels* table : all_tables())
    for (int shift = -40; shift <= 40; ++shift)
      for (const std::int64_t n : {1, 7, 16, 33}) {
        // Sums that reach about 2^7 and 2^15 after the shift, and extremes.
        std::vector<std::int32_t> sums =
            random_sums(random, n, 1 << std::clamp(shift + (n % 2 ? 8 : 16), 1, 30));
        if (n == 33) {
          const std::int32_t special[] = {kLowest, kHighest, kLowest + 1, -1, 0, 1};
          std::copy(std::begin(special), std::end(special), sums.begin());
        }
        std::vector<std::int8_t> bytes(sums.size() + 1, 77);
        std::vector<std::int16_t> words(sums.size() + 1, 77);
        table->requantize_int8(sums.data(), n, shift, bytes.data());
        table->requantize_int16(sums.data(), n, shift, words.data());
        for (std::size_t i = 0; i < sums.size(); ++i) {
          EXPECT_EQ(bytes[i], rounded<std::int8_t>(sums[i], shift)) << sums[i] << " >> " << shift;
          EXPECT_EQ(words[i], rounded<std::int16_t>(sums[i], shift)) << sums[i] << " >> " << shift;
        }
        EXPECT_EQ(bytes.back(), 77);
        EXPECT_EQ(words.back(), 77);
      }
}

TEST(Requantize, RoundsHalfUpAndSaturates) {
  const std::vector<std::int32_t> sums = {2, -2, 6, -6, 1, -1, 509, 510, -514, -515, kHighest};
  const std::vector<int> expected = {1, 0, 2, -1, 0, 0, 127, 127, -128, -128, 127};
  for (const Kernels* table : all_tables()) {
    std::vector<std::int8_t> codes(sums.size());
    table->requantize_int8(sums.data(), std::ssize(sums), 2, codes.data());
    EXPECT_EQ(std::vector<int>(codes.begin(), codes.end()), expected);
    table->requantize_int8(sums.data(), std::ssize(sums), 0, codes.data());
    EXPECT_EQ(std::vector<int>(codes.begin(), codes.end()),
              (std::vector<int>{2, -2, 6, -6, 1, -1, 127, 127, -128, -128, 127}));
    table->requantize_int8(sums.data(), std::ssize(sums), -5, codes.data());
    EXPECT_EQ(std::vector<int>(codes.begin(), codes.end()),
              (std::vector<int>{64, -64, 127, -128, 32, -32, 127, 127, -128, -128, 127}));
  }
}

TEST(Hadamard, IsTheMatrixInNaturalOrder) {
  Random random(34);
  for (const Kernels* table : all_tables())
    for (const std::int64_t n : {1, 2, 4, 8, 16, 32, 64, 128, 512, 2048}) {
      const std::vector<float> x = testing::normal_floats(random, n);
      std::vector<float> y = x;
      y.push_back(77);
      table->hadamard(y.data(), n);
      for (std::int64_t i = 0; i < n; ++i) {
        double sum = 0;
        for (std::int64_t j = 0; j < n; ++j) {
          const bool negative = std::popcount(static_cast<std::uint64_t>(i & j)) % 2 != 0;
          sum += negative ? -x[static_cast<std::size_t>(j)] : x[static_cast<std::size_t>(j)];
        }
        // Values about 1; a rounding in each of up to eleven stages.
        EXPECT_NEAR(y[static_cast<std::size_t>(i)], sum / std::sqrt(static_cast<double>(n)), 2e-6)
            << table->name << " n " << n << " i " << i;
      }
      EXPECT_EQ(y.back(), 77);
    }
}

TEST(Hadamard, RoundsAlikeInEveryTable) {
  Random random(35);
  for (const std::int64_t n : {1, 2, 8, 64, 1024}) {
    std::vector<float> expected = testing::normal_floats(random, n);
    const std::vector<float> x = expected;
    testing::reference().hadamard(expected.data(), n);
    for (const Kernels* table : testing::fast_tables()) {
      std::vector<float> y = x;
      table->hadamard(y.data(), n);
      EXPECT_EQ(y, expected) << table->name << " n " << n;
    }
  }
}

TEST(Mix, IsTheDenseProductInEveryTable) {
  Random random(36);
  for (const auto& [m, n] :
       {std::pair{1, 5}, {3, 1}, {5, 8}, {12, 16}, {19, 40}, {36, 2}, {43, 64}}) {
    const auto size = static_cast<std::size_t>(m * n);
    const std::vector<float> x = testing::normal_floats(random, m * n);
    std::vector<float> factor = testing::normal_floats(random, m * m);
    for (float& entry : factor) entry /= std::sqrt(static_cast<float>(m));
    std::vector<float> expected(size);
    testing::reference().mix(x.data(), factor.data(), m, n, expected.data());
    for (int j = 0; j < m; ++j)
      for (int c = 0; c < n; ++c) {
        double sum = 0;
        for (int i = 0; i < m; ++i)
          sum += static_cast<double>(factor[static_cast<std::size_t>(i * m + j)]) *
                 x[static_cast<std::size_t>(i * n + c)];
        EXPECT_NEAR(expected[static_cast<std::size_t>(j * n + c)], sum, 2e-6);
      }
    for (const Kernels* table : testing::fast_tables()) {
      std::vector<float> y(size + 1, 77);
      table->mix(x.data(), factor.data(), m, n, y.data());
      EXPECT_EQ(y.back(), 77);
      y.pop_back();
      EXPECT_EQ(y, expected) << table->name << " m " << m << " n " << n;
    }
  }
}

struct ShadowCase {
  std::int64_t k, n;
  std::vector<std::int32_t> channels;
};

std::vector<std::byte> encoded(const std::vector<float>& values, DType dtype) {
  std::vector<std::byte> bytes(values.size() * size_of(dtype));
  encode_floats(values, dtype, bytes.data());
  return bytes;
}

TEST(ShadowLinear, IsTheProductWithWhatCodesClip) {
  Random random(36);
  const ShadowCase cases[] = {
      {1, 1, {0}}, {9, 5, {0, 8}}, {70, 16, {3, 4, 5, 69}}, {64, 67, {63}}, {200, 130, {7, 150}}};
  for (const Kernels* table : all_tables())
    for (const ShadowCase& each : cases)
      for (const DType dtype : {DType::kF16, DType::kF32}) {
        const auto hot = std::ssize(each.channels);
        // About a third is clipped.
        std::vector<float> x = testing::normal_floats(random, each.k, 130);
        x[static_cast<std::size_t>(each.channels[0])] = -1000;
        std::vector<float> w = testing::normal_floats(random, hot * each.n);
        if (dtype == DType::kF16)
          for (float& value : w) value = f16_to_float(float_to_f16(value));
        constexpr float kScale = 1.25F;
        std::vector<std::int8_t> codes(static_cast<std::size_t>(padded_k(each.k)));
        std::int32_t sum = 0;
        table->quantize_static(x.data(), each.k, kScale, codes.data(), &sum);
        std::vector<float> y(static_cast<std::size_t>(each.n) + 1, 77);
        table->shadow_linear(x.data(), kScale, each.channels.data(), hot, encoded(w, dtype).data(),
                             dtype, each.n, y.data());
        for (std::int64_t c = 0; c < each.n; ++c) {
          double expected = 0, size = 0;
          for (std::int64_t h = 0; h < hot; ++h) {
            const auto channel =
                static_cast<std::size_t>(each.channels[static_cast<std::size_t>(h)]);
            const double off = x[channel] - double{kScale} * codes[channel];
            // What is only rounded is left alone.
            if (std::abs(off) <= kScale / 2) continue;
            expected += off * w[static_cast<std::size_t>(h * each.n + c)];
            size += std::abs(off * w[static_cast<std::size_t>(h * each.n + c)]);
          }
          EXPECT_NEAR(y[static_cast<std::size_t>(c)], expected, 1e-6 * size)
              << table->name << " n " << each.n << " c " << c;
        }
        EXPECT_EQ(y.back(), 77);
      }
}

// The borders are those of quantize_static(); NaN has the code -128 and no excess, and an infinite
// excess is one.
TEST(ShadowLinear, BeginsWhereCodesClip) {
  const std::vector<std::pair<float, float>> excesses = {
      {127.0F, 0},           {127.4375F, 0}, {127.5F, 0.5F},     {128.0F, 1},
      {300.0F, 173},         {-128.0F, 0},   {-128.5F, 0},       {-129.0F, -1},
      {-300.0F, -172},       {0.0F, 0},      {std::nanf(""), 0}, {INFINITY, INFINITY},
      {-INFINITY, -INFINITY}};
  const std::int32_t channel = 0;
  for (const Kernels* table : all_tables())
    for (const auto& [quotient, excess] : excesses) {
      const float x = quotient * 0.5F, one = 1;
      float y = 77;
      table->shadow_linear(&x, 0.5F, &channel, 1, reinterpret_cast<const std::byte*>(&one),
                           DType::kF32, 1, &y);
      EXPECT_EQ(y, excess * 0.5F) << table->name << " x " << x;
    }
}

TEST(ShadowLinear, RoundsAlikeInEveryTable) {
  Random random(37);
  const std::vector<std::int32_t> channels = {0, 2, 3, 11, 40};
  for (const std::int64_t n : {1, 8, 31, 100}) {
    const std::vector<float> x = testing::normal_floats(random, 41, 300);
    const std::vector<std::byte> w = encoded(testing::normal_floats(random, 5 * n), DType::kF16);
    const auto run = [&](const Kernels& table) {
      std::vector<float> y(static_cast<std::size_t>(n));
      table.shadow_linear(x.data(), 0.37F, channels.data(), 5, w.data(), DType::kF16, n, y.data());
      return y;
    };
    for (const Kernels* table : testing::fast_tables())
      EXPECT_EQ(run(*table), run(testing::reference())) << table->name << " n " << n;
  }
}

}  // namespace
}  // namespace tandem
