// linear_float on vectors V (vec256.h, vec512.h): register tiles over blocks of k, so that a block
// of the panel is read by all rows while it is in the L2 cache. Between blocks the accumulators are
// in memory, which does not change their value: each output is still one chain of fused
// multiply-adds in the order of k.
#pragma once

#include "kernels/kernels.h"
#include "kernels/x86/prefetch.h"
#include "kernels/x86/unroll.h"

namespace tandem {
namespace {

template <typename V>
struct FloatLinear {
  static constexpr int kWidth = V::kWidth;
  // 32 KiB of accumulators on the stack.
  static constexpr std::int64_t kChunkRows = 126;
  // 128 KiB of an F32 panel.
  static constexpr std::int64_t kStepsPerBlock = 512;

  template <PanelKind kKind>
  TANDEM_INLINE static typename V::Float load(const std::byte* panel, std::int64_t index) {
    if constexpr (kKind == PanelKind::kF32)
      return V::load(reinterpret_cast<const float*>(panel) + index);
    else if constexpr (kKind == PanelKind::kF16)
      return V::load_f16(reinterpret_cast<const std::uint16_t*>(panel) + index);
    else
      return V::load_bf16(reinterpret_cast<const std::uint16_t*>(panel) + index);
  }

  // acc[r][column + i] over steps [begin, end) of k, for kVectors * kWidth columns.
  template <PanelKind kKind, int kRows, int kVectors>
  static void tile(const std::byte* panel, std::int64_t column, std::int64_t begin,
                   std::int64_t end, const float* x, std::int64_t x_stride, float* acc,
                   const Prefetch& prefetch) {
    typename V::Float sums[kRows][kVectors];
    unroll<kRows>([&](auto r) TANDEM_INLINE {
      unroll<kVectors>([&](auto v) TANDEM_INLINE {
        sums[r][v] = V::load(acc + r * kPanelColumns + column + v * kWidth);
      });
    });
    for (std::int64_t i = begin; i < end; ++i) {
      prefetch.fetch(i - begin);
      typename V::Float w[kVectors];
      unroll<kVectors>([&](auto v) TANDEM_INLINE {
        w[v] = load<kKind>(panel, i * kPanelColumns + column + v * kWidth);
      });
      unroll<kRows>([&](auto r) TANDEM_INLINE {
        const auto a = V::set1(x[r * x_stride + i]);
        unroll<kVectors>([&](auto v) TANDEM_INLINE { sums[r][v] = V::fma(a, w[v], sums[r][v]); });
      });
    }
    unroll<kRows>([&](auto r) TANDEM_INLINE {
      unroll<kVectors>([&](auto v) TANDEM_INLINE {
        V::store(acc + r * kPanelColumns + column + v * kWidth, sums[r][v]);
      });
    });
  }

  template <PanelKind kKind>
  static void rows_of_block(const std::byte* panel, std::int64_t begin, std::int64_t end,
                            const float* x, std::int64_t x_stride, std::int64_t rows, float* acc) {
    constexpr std::int64_t kStepBytes = kPanelColumns * (kKind == PanelKind::kF32 ? 4 : 2);
    constexpr int kAll = static_cast<int>(kPanelColumns) / kWidth;
    // Reads the panel in one pass.
    if (rows == 1) {
      tile<kKind, 1, kAll>(panel, 0, begin, end, x, x_stride, acc,
                           {panel + begin * kStepBytes + kFarBytes, kStepBytes});
      return;
    }
    for_row_blocks(rows, V::kTileRows, [&](std::int64_t first, std::int64_t count) {
      // The next block of k, in this panel or the one after it.
      const Prefetch prefetch = prefetch_for(panel + begin * kStepBytes, panel + end * kStepBytes,
                                             end - begin, kStepBytes, first, rows, V::kTileRows);
      for (std::int64_t c = 0; c < kPanelColumns; c += V::kTileVectors * kWidth)
        with_constant<V::kTileRows>(count, [&](auto constant) {
          tile<kKind, constant, V::kTileVectors>(panel, c, begin, end, x + first * x_stride,
                                                 x_stride, acc + first * kPanelColumns, prefetch);
        });
    });
  }

  static void finish(const float* acc, std::int64_t rows, std::int64_t column, std::int64_t count,
                     const LinearOutput& out, float* y) {
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < count; c += kWidth) {
        auto value = V::load(acc + r * kPanelColumns + c);
        if (out.bias) value = V::add(value, V::load_part(out.bias + column + c, count - c));
        V::store_part(y + r * out.stride + column + c, value, count - c);
      }
  }

  static void linear(const PanelLayout& layout, const std::byte* panels, Range range,
                     const float* x, std::int64_t x_stride, std::int64_t rows,
                     const LinearOutput& out) noexcept {
    const std::int64_t panel_bytes = layout.panel_bytes();
    alignas(64) float acc[kChunkRows * kPanelColumns];
    for (std::int64_t p = range.begin; p < range.end; ++p) {
      const std::byte* panel = panels + p * panel_bytes;
      const std::int64_t column = p * kPanelColumns;
      const std::int64_t left = layout.n - column;
      for_row_blocks(rows, kChunkRows, [&](std::int64_t first, std::int64_t count) {
        for (std::int64_t i = 0; i < count * kPanelColumns; ++i) acc[i] = 0;
        const float* x_rows = x + first * x_stride;
        for (std::int64_t begin = 0; begin < layout.k; begin += kStepsPerBlock) {
          const std::int64_t end =
              begin + kStepsPerBlock < layout.k ? begin + kStepsPerBlock : layout.k;
          switch (layout.kind) {
            case PanelKind::kF32:
              rows_of_block<PanelKind::kF32>(panel, begin, end, x_rows, x_stride, count, acc);
              break;
            case PanelKind::kF16:
              rows_of_block<PanelKind::kF16>(panel, begin, end, x_rows, x_stride, count, acc);
              break;
            default:
              rows_of_block<PanelKind::kBF16>(panel, begin, end, x_rows, x_stride, count, acc);
              break;
          }
        }
        finish(acc, count, column, left < kPanelColumns ? left : kPanelColumns, out,
               out.y + first * out.stride);
      });
    }
  }
};

}  // namespace
}  // namespace tandem
