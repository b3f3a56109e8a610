// Conversions between float32 and narrower floats by arithmetic on their bits.
#include "tensor/half.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace tandem {
namespace {

// Nearest float16 value, ties to even, infinity beyond the range; NaN stays NaN. Same result as a
// round trip through float_to_f16(), in a form that vectorises.
inline float nearest_f16(float x) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = bits & 0x8000'0000U;
  const std::uint32_t magnitude = bits & 0x7FFF'FFFFU;
  // Normal: drop 13 of the 23 fraction bits.
  const std::uint32_t dropped = (magnitude + 0x0FFFU + ((magnitude >> 13) & 1U)) & 0xFFFF'E000U;
  // 65536 and above overflows to infinity.
  const std::uint32_t normal = dropped >= 0x4780'0000U ? 0x7F80'0000U : dropped;
  // Below 2^-14 float16 has steps of 2^-24, which is the step of float32 in [0.5, 1).
  const float small = (std::bit_cast<float>(magnitude) + 0.5F) - 0.5F;
  std::uint32_t rounded = magnitude < 0x3880'0000U ? std::bit_cast<std::uint32_t>(small) : normal;
  rounded = magnitude > 0x7F80'0000U ? magnitude : rounded;
  return std::bit_cast<float>(sign | rounded);
}

}  // namespace

std::uint16_t float_to_bf16(float f) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(f);
  // A NaN whose payload sits in the lower half would round to infinity; the quiet bit keeps it NaN.
  if (std::isnan(f)) return static_cast<std::uint16_t>((bits >> 16) | 0x0040);
  // Adding just under half a unit in the last kept place, plus one if that place is odd, rounds
  // ties to even.
  const std::uint32_t odd = (bits >> 16) & 1;
  return static_cast<std::uint16_t>((bits + 0x7fff + odd) >> 16);
}

float f16_to_float(std::uint16_t h) noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000) << 16;
  const std::uint32_t exponent = (h >> 10) & 0x1f;
  const std::uint32_t mantissa = h & 0x3ff;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, exact in float32
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
  }
  if (exponent == 0x1f) {  // infinity or NaN; hardware quiets a NaN, and so does this
    const std::uint32_t quiet = mantissa != 0 ? 0x400000 : 0;
    return std::bit_cast<float>(sign | 0x7f800000 | (mantissa << 13) | quiet);
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) |
                              (mantissa << 13));  // 112 = 127 - 15
}

float round_to(DType dtype, float value) noexcept {
  if (dtype == DType::kF16) return nearest_f16(value);
  if (dtype == DType::kBF16) return bf16_to_float(float_to_bf16(value));
  return value;
}

void round_all(DType dtype, std::span<float> values) noexcept {
  if (dtype == DType::kF16) {
    for (float& value : values) value = nearest_f16(value);
  } else if (dtype == DType::kBF16) {
    for (float& value : values) value = bf16_to_float(float_to_bf16(value));
  }
}

float f8_e4m3_to_float(std::uint8_t f) noexcept {
  if ((f & 0x7f) == 0x7f) return std::bit_cast<float>(f < 0x80 ? 0x7fc00000u : 0xffc00000u);
  // Where F16 has its sign and the lower bits of its exponent and mantissa, the eight bits are an
  // F16 that is 2^8 too small, subnormal or not: the biases are 7 and 15.
  const int bits = (f & 0x80) << 8 | (f & 0x7f) << 7;
  return f16_to_float(static_cast<std::uint16_t>(bits)) * 0x1p8f;
}

// The upper half of an F16.
float f8_e5m2_to_float(std::uint8_t f) noexcept {
  return f16_to_float(static_cast<std::uint16_t>(f << 8));
}

std::uint16_t float_to_f16(float f) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(f);
  const std::uint32_t sign = (bits >> 16) & 0x8000;
  const std::uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000)  // NaN: the top of the payload, made quiet
    return static_cast<std::uint16_t>(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff));
  if (magnitude >= 0x477ff000)  // 65520, half-way from 65504 to the next step: infinity
    return static_cast<std::uint16_t>(sign | 0x7c00);
  if (magnitude < 0x38800000) {  // below 2^-14: subnormal steps of 2^-24
    // Adding 0.5 puts the last place of the sum at 2^-24, so that the float addition rounds to
    // nearest even.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000));
  }
  const std::uint32_t odd = (magnitude >> 13) & 1;
  const std::uint32_t rounded = magnitude + 0xfff + odd;
  return static_cast<std::uint16_t>(sign |
                                    ((rounded - 0x38000000) >> 13));  // 0x38000000 = 112 << 23
}

void encode_floats(std::span<const float> values, DType dtype, std::byte* out) noexcept {
  if (dtype == DType::kF32) {
    std::ranges::copy(std::as_bytes(values), out);
    return;
  }
  for (const float value : values) {
    const std::uint16_t half = dtype == DType::kF16 ? float_to_f16(value) : float_to_bf16(value);
    std::memcpy(out, &half, sizeof half);
    out += sizeof half;
  }
}

}  // namespace tandem
