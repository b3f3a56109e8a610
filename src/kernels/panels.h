// The packed form of a Linear's weight, shared by all kernels: panels of 64 output channels, with k
// as the inner dimension.
//
// A panel is one contiguous stream that a matrix product reads once from front to back, whatever
// its number of rows:
//   float  [k][64] of F32, F16 or BF16
//   int8   [padded_k / 4][64][4] of uint8 = code + 128 (vpdpbusd wants its first operand unsigned),
//          then F32 scales [64]
//   int4   per group: [group / 8][64][4] bytes, where byte j of step i holds k = 8 i + j in its low
//          nibble and k = 8 i + 4 + j in its high nibble (masking and shifting give two ready
//          vpdpbusd operands), then F16 scales [64] and uint8 zero points [64]
// Output channels beyond n are zeros (codes 128 for int8; scale 0). A panel's size is a multiple of
// 64 bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/thread_pool.h"
#include "tensor/weight.h"

namespace tandem {

inline constexpr std::int64_t kPanelColumns = 64;
// Part of the key of cached packed weights: increment it with every change of the layout above.
inline constexpr int kPanelLayoutVersion = 1;

// k rounded up to the padded length of int8 rows (64 bytes: whole vectors for the quantizer and
// whole AMX tiles).
constexpr std::int64_t padded_k(std::int64_t k) noexcept { return (k + 63) / 64 * 64; }

// A step of integer panels: four bytes, one lane of vpdpbusd, for each of the 64 columns. It holds
// four k in int8 panels and eight in int4 panels.
inline constexpr std::int64_t kStepBytes = 4 * kPanelColumns;
inline constexpr std::int64_t kInt8StepK = 4;
inline constexpr std::int64_t kInt4StepK = 8;

// Added to int8 codes to make them unsigned.
inline constexpr int kInt8Offset = 128;

// Bytes of an int8 panel's codes, a whole number of steps because padded_k() is a multiple of four;
// its scales follow.
constexpr std::int64_t int8_code_bytes(std::int64_t k) noexcept {
  return padded_k(k) / kInt8StepK * kStepBytes;
}
inline constexpr std::int64_t kInt8ScaleBytes = kPanelColumns * 4;

// Bytes of one group's codes in an int4 panel, group / 8 steps. F16 scales follow, then one zero
// point per byte.
constexpr std::int64_t int4_code_bytes(std::int64_t group) noexcept {
  return group / kInt4StepK * kStepBytes;
}
inline constexpr std::int64_t kInt4ScaleBytes = kPanelColumns * 2;
inline constexpr std::int64_t kInt4ZeroBytes = kPanelColumns;
inline constexpr std::int64_t kInt4EndBytes = kInt4ScaleBytes + kInt4ZeroBytes;
constexpr std::int64_t int4_group_bytes(std::int64_t group) noexcept {
  return int4_code_bytes(group) + kInt4EndBytes;
}
// The scales and zero points of 64 columns, which follow a group's codes.
template <typename Byte>
constexpr Byte* int4_scales(Byte* codes_end) noexcept {
  return codes_end;
}
template <typename Byte>
constexpr Byte* int4_zeros(Byte* codes_end) noexcept {
  return codes_end + kInt4ScaleBytes;
}

enum class PanelKind : std::uint8_t { kF32, kF16, kBF16, kInt8, kInt4 };

struct PanelLayout {
  PanelKind kind = PanelKind::kF32;
  // Output channels.
  std::int64_t n = 0;
  // Input channels.
  std::int64_t k = 0;
  // Group size, int4 only.
  std::int64_t group = 0;

  std::int64_t panels() const noexcept { return (n + kPanelColumns - 1) / kPanelColumns; }
  std::int64_t panel_bytes() const noexcept;
  std::int64_t bytes() const noexcept { return panels() * panel_bytes(); }
};

// The kind of panels for a weight:
//   FloatWeight   kF32, kF16 or kBF16, according to the dtype() of its rows
//   GroupCodes    kInt4 for 4 bits in groups of a multiple of 32, signed or not, with zero points or
//                 not; otherwise kF16, holding the dequantized values. Both round to F16, the scales
//                 or the values; where one would become 0 or infinite, kF32 with the values. A
//                 panel's group is the largest of 128, 64 and 32 that divides the weight's.
//   ChannelCodes  kInt8
PanelLayout panel_layout(const Weight& weight);

// Packs panels [range) of `weight` into `out` (the start of panel 0), which holds layout.bytes()
// bytes and is 64-byte aligned. The layout is that of panel_layout(), or the same of kind kF32 for
// ChannelCodes: the values behind the codes. For a weight that passes validate(), throws only what
// reading the rows of a FloatWeight throws.
void pack_panels(const Weight& weight, const PanelLayout& layout, Range range, std::byte* out);

}  // namespace tandem
