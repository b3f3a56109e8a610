// Conversions between float32 and the two 16-bit float types, exact or rounded to nearest even, and
// from the two 8-bit float types.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "tensor/dtype.h"

namespace tandem {

inline float bf16_to_float(std::uint16_t h) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(h) << 16);
}
// Rounds to nearest even; NaN stays NaN.
std::uint16_t float_to_bf16(float f) noexcept;

// The largest finite value of F16.
inline constexpr float kLargestF16 = 65504;

float f16_to_float(std::uint16_t h) noexcept;
// Rounds to nearest even; overflows to infinity from 65520.
std::uint16_t float_to_f16(float f) noexcept;

// The nearest value of F16 or BF16, ties to even; as it is for any other type.
float round_to(DType dtype, float value) noexcept;
// The same in place, several at once.
void round_all(DType dtype, std::span<float> values) noexcept;

// The values in the bytes of F32, F16 or BF16, rounded as by round_to().
void encode_floats(std::span<const float> values, DType dtype, std::byte* out) noexcept;

// Exact, also in F16. E4M3 is the type without infinities: 0x7f and 0xff are NaN, the largest value
// is 448.
float f8_e4m3_to_float(std::uint8_t f) noexcept;
float f8_e5m2_to_float(std::uint8_t f) noexcept;

}  // namespace tandem
