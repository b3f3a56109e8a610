// A softmax of integer scores in integers, with probabilities of 16 bits. As in the headers of x86/,
// everything is local to the including file.
//
//   d = largest score - score, octaves t = d * octaves / 2^15, rounded down
//   e = 2^-t in units of 2^-16, at most 65535; 0 for columns that are hidden
//   p = e / (sum of e) in units of 2^-16, at most 65535, by the reciprocal of the sum
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace tandem {
namespace {

// The score of a column that a row does not attend to; no sum of products is that low.
inline constexpr std::int32_t kHidden = INT32_MIN;
// Units in an octave, and octaves from which on e is 0.
inline constexpr int kOctaveBits = 15;
inline constexpr std::uint64_t kMostOctaves = 20;
inline constexpr std::int32_t kMostProbability = 65535;
// Of a probability's unit.
inline constexpr float kProbabilityUnit = 1.0F / 65536;

// 2^-(t / 2^15), rounded. 2^-f is 1 + f g(f) for the fraction f, where g interpolates (2^-f - 1) / f
// at the four Chebyshev nodes of [0, 1]; its coefficients are in units of 2^-16. Within 2.2 units.
inline std::int32_t power16(std::uint64_t difference, const FixedMultiplier& octaves) noexcept {
  const std::uint64_t all =
      (difference * static_cast<std::uint64_t>(octaves.factor)) >> octaves.shift;
  constexpr std::uint64_t kMost = kMostOctaves << kOctaveBits;
  const std::uint64_t t = all < kMost ? all : kMost;
  const auto f = static_cast<std::int32_t>(t & ((1U << kOctaveBits) - 1));
  const auto whole = static_cast<std::int32_t>(t >> kOctaveBits);
  constexpr std::int32_t kHalf = 1 << (kOctaveBits - 1);
  std::int32_t y = 480;
  y = -3548 + ((y * f + kHalf) >> kOctaveBits);
  y = 15726 + ((y * f + kHalf) >> kOctaveBits);
  y = -45426 + ((y * f + kHalf) >> kOctaveBits);
  y = 65536 + ((y * f + kHalf) >> kOctaveBits);
  y = (y + ((1 << whole) >> 1)) >> whole;
  return y < kMostProbability ? y : kMostProbability;
}

// The sum of up to 65536 powers is below 2^32, and not below 65535.
inline std::uint64_t reciprocal_of(std::uint64_t sum) noexcept {
  return (std::uint64_t{1} << 47) / sum;
}
inline std::int32_t probability16(std::int32_t power, std::uint64_t reciprocal) noexcept {
  const std::uint64_t p =
      (static_cast<std::uint64_t>(power) * reciprocal + (std::uint64_t{1} << 30)) >> 31;
  return p < kMostProbability ? static_cast<std::int32_t>(p) : kMostProbability;
}

// Whether a new row attends to a column.
inline bool is_visible(const AttentionMask& mask, std::int64_t first_position, std::int64_t row,
                       std::int64_t column) noexcept {
  const std::int64_t fresh = column - first_position;
  if (column < mask.first[row] || fresh > row) return false;
  if (fresh < 0 || mask.visible == nullptr) return true;
  return (mask.visible[row * mask.words + fresh / 64] >> (fresh % 64) & 1) != 0;
}

}  // namespace
}  // namespace tandem
