// Multiplication of integers by a real number in fixed point, as NPUs requantize: an integer factor,
// a shift, and rounding half up. The arithmetic has no floats, so that every device gets the same bits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace tandem {

// v * factor / 2^shift.
struct FixedMultiplier {
  // In [0, 2^31).
  std::int64_t factor = 0;
  // In [0, 62].
  int shift = 0;
};

// The multiplier with 31 significant bits next to `value`: 0 for what is not above 0, the largest one
// beyond 2^31.
inline FixedMultiplier fixed_multiplier(double value) noexcept {
  constexpr std::int64_t kMost = (std::int64_t{1} << 31) - 1;
  constexpr int kMostShift = 62;
  if (!(value > 0)) return {};
  int exponent = 0;
  const double fraction = std::frexp(value, &exponent);
  int shift = 31 - exponent;
  if (!(value < 2147483648.0) || shift < 0) return {kMost, 0};
  const double scaled =
      shift > kMostShift ? std::ldexp(value, kMostShift) : fraction * 2147483648.0;
  shift = std::min(shift, kMostShift);
  return {std::min(static_cast<std::int64_t>(std::nearbyint(scaled)), kMost), shift};
}

// v times the multiplier, rounded half up (towards +infinity) and saturated to [-most, most]; |v| at
// most 2^31, where nothing overflows.
inline std::int32_t requantize(std::int64_t v, const FixedMultiplier& by,
                               std::int32_t most) noexcept {
  const std::int64_t half = by.shift > 0 ? std::int64_t{1} << (by.shift - 1) : 0;
  const std::int64_t rounded = (v * by.factor + half) >> by.shift;
  return static_cast<std::int32_t>(
      std::clamp<std::int64_t>(rounded, -std::int64_t{most}, std::int64_t{most}));
}

}  // namespace tandem
