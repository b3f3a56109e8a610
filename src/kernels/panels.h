// The packed form of a Linear's weight, shared by all kernels: panels of 64 output channels, k
// running inside.
//
// A panel is one contiguous stream, read once from front to back by a matrix product of any number
// of rows:
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
#include <string>

#include "base/thread_pool.h"
#include "tensor/weight.h"

namespace tandem {

inline constexpr std::int64_t kPanelColumns = 64;
// Part of the key of cached packed weights: raise it with every change of the layout above.
inline constexpr int kPanelLayoutVersion = 1;

enum class PanelKind : std::uint8_t { kF32, kF16, kBF16, kInt8, kInt4 };

struct PanelLayout {
  PanelKind kind = PanelKind::kF32;
  std::int64_t n = 0;      // output channels
  std::int64_t k = 0;      // input channels
  std::int64_t group = 0;  // int4 only

  std::int64_t panels() const noexcept { return (n + kPanelColumns - 1) / kPanelColumns; }
  std::int64_t panel_bytes() const noexcept;
  std::int64_t bytes() const noexcept { return panels() * panel_bytes(); }
};

// k rounded up to what int8 rows are padded to (64 bytes: whole vectors for the quantizer and whole
// AMX tiles).
constexpr std::int64_t padded_k(std::int64_t k) noexcept { return (k + 63) / 64 * 64; }

PanelLayout panel_layout(const Weight& weight);

// Packs panels [range) of `weight` to `out` (the start of panel 0), which holds layout.bytes() and
// is 64-byte aligned. Throws nothing for a weight that validate() accepts.
void pack_panels(const Weight& weight, const PanelLayout& layout, Range range, std::byte* out);

}  // namespace tandem
