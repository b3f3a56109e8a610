// 16-bit floats against arithmetic in double and, where there is one, the processor's own
// conversion.
#include "tensor/half.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

#include "base/cpu_features.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tandem {
namespace {

float from_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }
std::uint32_t to_bits(float f) { return std::bit_cast<std::uint32_t>(f); }

// A format of 1 sign, `exponent_bits` and `mantissa_bits`, by its definition.
struct Format {
  int exponent_bits;
  int mantissa_bits;

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  int smallest_exponent() const { return 1 - bias() - mantissa_bits; }  // of the subnormals' step
  std::uint32_t infinity() const { return ((1u << exponent_bits) - 1) << mantissa_bits; }

  double decode(std::uint32_t magnitude) const {
    const int exponent = static_cast<int>(magnitude >> mantissa_bits);
    const double mantissa = magnitude & ((1u << mantissa_bits) - 1);
    if (exponent == 0) return std::ldexp(mantissa, smallest_exponent());
    return std::ldexp(mantissa + (1 << mantissa_bits), exponent - 1 + smallest_exponent());
  }

  // Nearest even, by dividing by the step of the value's binade; nearbyint rounds ties to even.
  std::uint32_t encode(double magnitude) const {
    int exponent = 0;
    std::frexp(magnitude, &exponent);
    const int step = std::max(exponent - 1 - mantissa_bits, smallest_exponent());
    const double units = std::nearbyint(std::ldexp(magnitude, -step));
    if (units == 0) return 0;
    // Consecutive codes are consecutive values, across binades too.
    const auto code = static_cast<std::uint64_t>(units) +
                      (static_cast<std::uint64_t>(step - smallest_exponent()) << mantissa_bits);
    return code >= infinity() ? infinity() : static_cast<std::uint32_t>(code);
  }
};

constexpr Format kF16{5, 10};
constexpr Format kBf16{8, 7};

template <typename Decode, typename Encode>
void check_all_codes(const Format& format, Decode decode, Encode encode) {
  for (std::uint32_t code = 0; code < 0x10000; ++code) {
    const auto h = static_cast<std::uint16_t>(code);
    const std::uint32_t magnitude = code & 0x7fff;
    const float f = decode(h);
    ASSERT_EQ(std::signbit(f), code >= 0x8000) << code;
    if (magnitude > format.infinity()) {
      ASSERT_TRUE(std::isnan(f)) << code;
      ASSERT_TRUE(std::isnan(decode(encode(f)))) << code;
      continue;
    }
    if (magnitude == format.infinity()) {
      ASSERT_TRUE(std::isinf(f)) << code;
    } else {
      ASSERT_EQ(std::fabs(static_cast<double>(f)), format.decode(magnitude)) << code;
    }
    ASSERT_EQ(encode(f), h) << code;
  }
}

// Around each code, each midpoint of neighbours, and their nearest floats; and anywhere.
template <typename Check>
void for_interesting_floats(const Format& format, Check check) {
  for (std::uint32_t code = 0; code <= format.infinity(); ++code) {
    const double low = format.decode(code);
    const double high = code == format.infinity() ? low : format.decode(code + 1);
    for (const double value : {low, (low + high) / 2}) {
      const auto f = static_cast<float>(value);
      for (const float near : {f, std::nextafter(f, 0.0f),
                               std::nextafter(f, std::numeric_limits<float>::infinity())}) {
        if (std::isinf(near)) continue;
        check(near);
        check(-near);
      }
    }
  }
  std::mt19937 random(3);
  for (int i = 0; i < 2000000; ++i) {
    const float f = from_bits(static_cast<std::uint32_t>(random()));
    if (std::isfinite(f)) check(f);
  }
}

TEST(Half, F16MatchesTheDefinitionOfAllCodes) { check_all_codes(kF16, f16_to_float, float_to_f16); }

TEST(Half, Bf16MatchesTheDefinitionOfAllCodes) {
  check_all_codes(kBf16, bf16_to_float, float_to_bf16);
}

TEST(Half, F16RoundsToNearestEven) {
  for_interesting_floats(kF16, [](float f) {
    ASSERT_EQ(float_to_f16(f) & 0x7fffu, kF16.encode(std::fabs(static_cast<double>(f))))
        << to_bits(f);
    ASSERT_EQ(float_to_f16(f) >> 15, std::signbit(f));
  });
}

TEST(Half, Bf16RoundsToNearestEven) {
  for_interesting_floats(kBf16, [](float f) {
    ASSERT_EQ(float_to_bf16(f) & 0x7fffu, kBf16.encode(std::fabs(static_cast<double>(f))))
        << to_bits(f);
    ASSERT_EQ(float_to_bf16(f) >> 15, std::signbit(f));
  });
}

TEST(Half, RoundsFloatsToTheNearest) {
  std::vector<float> values;
  for_interesting_floats(kF16, [&](float f) { values.push_back(f); });
  std::vector<float> f16 = values, bf16 = values, f32 = values;
  round_all(DType::kF16, f16);
  round_all(DType::kBF16, bf16);
  round_all(DType::kF32, f32);
  for (std::size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(to_bits(f16[i]), to_bits(f16_to_float(float_to_f16(values[i])))) << values[i];
    ASSERT_EQ(to_bits(bf16[i]), to_bits(bf16_to_float(float_to_bf16(values[i])))) << values[i];
    ASSERT_EQ(to_bits(f32[i]), to_bits(values[i]));
    ASSERT_EQ(to_bits(round_to(DType::kF16, values[i])), to_bits(f16[i]));
  }
}

TEST(Half, SpecialValues) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(float_to_f16(65504.0f), 0x7bff);
  EXPECT_EQ(float_to_f16(std::nextafter(65520.0f, 0.0f)), 0x7bff);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_f16(-infinity), 0xfc00);
  EXPECT_EQ(float_to_f16(0x1p-25f), 0x0000);  // half the smallest: tie to even
  EXPECT_EQ(float_to_f16(0x1.8p-24f), 0x0002);
  EXPECT_EQ(float_to_bf16(infinity), 0x7f80);
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(from_bits(0x7f800001)))));
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(from_bits(0xffffffff)))));
  EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(from_bits(0x7f800001)))));
}

#if defined(__x86_64__)

__attribute__((target("f16c,avx"))) float hardware_to_float(std::uint16_t h) {
  return _cvtsh_ss(h);
}

__attribute__((target("f16c,avx"))) std::uint16_t hardware_to_f16(float f) {
  return static_cast<std::uint16_t>(_cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT));
}

TEST(Half, F16MatchesTheProcessorBitForBit) {
  if (!detect_cpu_features().avx2) GTEST_SKIP() << "the processor has no F16C";
  for (std::uint32_t code = 0; code < 0x10000; ++code) {
    const auto h = static_cast<std::uint16_t>(code);
    ASSERT_EQ(to_bits(f16_to_float(h)), to_bits(hardware_to_float(h))) << code;
  }
  for_interesting_floats(
      kF16, [](float f) { ASSERT_EQ(float_to_f16(f), hardware_to_f16(f)) << to_bits(f); });
  for (std::uint32_t i = 0; i < 0x800000; i += 97) {  // NaNs of both signs
    for (const std::uint32_t bits : {0x7f800001 + i, 0xff800001 + i})
      ASSERT_EQ(float_to_f16(from_bits(bits)), hardware_to_f16(from_bits(bits))) << bits;
  }
}

#endif

}  // namespace
}  // namespace tandem
