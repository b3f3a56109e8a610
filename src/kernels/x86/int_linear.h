// The parts of the integer matrix products that all instruction sets share: iterating over panels
// and rows, and converting sums to results. Plain loops over 64 columns, which the compiler
// vectorises.
#pragma once

#include "kernels/kernels.h"
#include "kernels/x86/prefetch.h"
#include "kernels/x86/unroll.h"

namespace tandem {
namespace {

inline constexpr std::int64_t kColumns = kPanelColumns;

// Weights are stored with an offset, so each sum is too large by the offset times the sum of the
// row's codes.
TANDEM_INLINE inline void store_int8_sums(const std::int32_t* raw, std::int32_t row_sum,
                                          std::int64_t count, std::int32_t* out) {
  for (std::int64_t c = 0; c < count; ++c) out[c] = raw[c] - kInt8Offset * row_sum;
}

TANDEM_INLINE inline void store_int8_row(const std::int32_t* raw, std::int32_t row_sum,
                                         float x_scale, const float* scales, const float* bias,
                                         std::int64_t count, float* y) {
  for (std::int64_t c = 0; c < count; ++c)
    y[c] = static_cast<float>(raw[c] - kInt8Offset * row_sum) * (x_scale * scales[c]);
  if (bias)
    for (std::int64_t c = 0; c < count; ++c) y[c] += bias[c];
}

// Runs Tile::sums<rows>(panel, steps of four k, codes, stride, raw [rows][64], prefetch) over
// panels and rows, with up to Tile::kRows rows at a time.
template <typename Tile>
struct Int8Linear {
  template <typename Store>
  TANDEM_INLINE static void for_tiles(const PanelLayout& layout, const std::byte* panels,
                                      Range range, const StaticInt8Rows& x, std::int64_t rows,
                                      const Store& store) {
    const std::int64_t panel_bytes = layout.panel_bytes();
    const std::int64_t steps = padded_k(layout.k) / kInt8StepK;
    alignas(64) std::int32_t raw[Tile::kRows * kColumns];
    for (std::int64_t p = range.begin; p < range.end; ++p) {
      const auto* panel = reinterpret_cast<const std::uint8_t*>(panels + p * panel_bytes);
      const auto* scales = reinterpret_cast<const float*>(panel + int8_code_bytes(layout.k));
      const std::byte* next = panels + (p + 1 < range.end ? p + 1 : p) * panel_bytes;
      const std::int64_t left = layout.n - p * kColumns;
      const std::int64_t count = left < kColumns ? left : kColumns;
      for_row_blocks(rows, Tile::kRows, [&](std::int64_t first, std::int64_t block) {
        const Prefetch prefetch = prefetch_for(panels + p * panel_bytes, next, steps, kStepBytes,
                                               first, rows, Tile::kRows);
        with_constant<Tile::kRows>(block, [&](auto constant) {
          Tile::template sums<constant>(panel, steps, x.codes + first * x.stride, x.stride, raw,
                                        prefetch);
        });
        for (std::int64_t r = 0; r < block; ++r)
          store(raw + r * kColumns, first + r, p * kColumns, count, scales);
      });
    }
  }

  static void linear(const PanelLayout& layout, const std::byte* panels, Range range,
                     const StaticInt8Rows& x, std::int64_t rows, const LinearOutput& out) noexcept {
    for_tiles(layout, panels, range, x, rows,
              [&](const std::int32_t* raw, std::int64_t row, std::int64_t column,
                  std::int64_t count, const float* scales) {
                store_int8_row(raw, x.sums[row], x.scale, scales,
                               out.bias ? out.bias + column : nullptr, count,
                               out.y + row * out.stride + column);
              });
  }

  static void sums(const PanelLayout& layout, const std::byte* panels, Range range,
                   const StaticInt8Rows& x, std::int64_t rows, std::int32_t* sums_out,
                   std::int64_t stride) noexcept {
    for_tiles(layout, panels, range, x, rows,
              [&](const std::int32_t* raw, std::int64_t row, std::int64_t column,
                  std::int64_t count, const float*) {
                store_int8_sums(raw, x.sums[row], count, sums_out + row * stride + column);
              });
  }
};

// Stores rows of float accumulators [64] to y.
TANDEM_INLINE inline void store_rows(const float* acc, std::int64_t rows, std::int64_t column,
                                     std::int64_t n, const LinearOutput& out, float* y) {
  const std::int64_t count = n - column < kColumns ? n - column : kColumns;
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* from = acc + r * kColumns;
    float* to = y + r * out.stride + column;
    if (out.bias)
      for (std::int64_t c = 0; c < count; ++c) to[c] = from[c] + out.bias[column + c];
    else
      for (std::int64_t c = 0; c < count; ++c) to[c] = from[c];
  }
}

// Activations of one group of k for some rows.
struct GroupRows {
  const std::int8_t* codes;
  // Bytes between rows.
  std::int64_t stride;
  const float* scales;
  const std::int32_t* sums;
  // Elements between rows of scales and sums, i.e. groups per row.
  std::int64_t groups;
};

TANDEM_INLINE inline GroupRows group_rows(const GroupInt8Rows& x, std::int64_t row, std::int64_t g,
                                          std::int64_t group, std::int64_t groups) {
  return {x.codes + row * x.stride + g * group, x.stride, x.scales + row * groups + g,
          x.sums + row * groups + g, groups};
}

}  // namespace
}  // namespace tandem
