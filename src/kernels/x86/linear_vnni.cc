// Integer matrix products with AVX-512 VNNI: vpdpbusd multiplies four unsigned weights by four
// signed activations and adds to an int32, for sixteen columns at once. A register tile is 6 rows x
// 64 columns: 24 accumulators, 4 registers of weights and a broadcast, so that per 4 k there are 24
// multiply-adds for 10 loads.
#include "kernels/x86/int4_groups.h"
#include "kernels/x86/intrinsics.h"
#include "kernels/x86/layers.h"

namespace tandem {

namespace {

constexpr int kTileRows = 6;

TANDEM_INLINE inline __m512i broadcast4(const std::int8_t* p) {
  std::int32_t four;
  __builtin_memcpy(&four, p, sizeof(four));
  return _mm512_set1_epi32(four);
}

// sums + four products of u8 x s8 in each lane. Inline assembly, because GCC 12 copies and spills
// the accumulators of the intrinsic, whose result and operand it treats as two values.
TANDEM_INLINE inline __m512i dots(__m512i sums, __m512i weights, __m512i codes) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(codes));
  return sums;
}

// sums[r] += weights (u8 [steps][64][4]) x codes, in registers.
template <int kRows>
TANDEM_INLINE inline void add_products(const std::uint8_t* weights, std::int64_t steps,
                                       const std::int8_t* codes, std::int64_t stride,
                                       __m512i (&sums)[kRows][4], const Prefetch& prefetch) {
  for (std::int64_t i = 0; i < steps; ++i) {
    prefetch.fetch(i);
    __m512i w[4];
    unroll<4>([&](auto v) TANDEM_INLINE { w[v] = load_codes(weights + i * kStepBytes + v * 64); });
    unroll<kRows>([&](auto r) TANDEM_INLINE {
      const __m512i a = broadcast4(codes + r * stride + i * kInt8StepK);
      unroll<4>([&](auto v) TANDEM_INLINE { sums[r][v] = dots(sums[r][v], w[v], a); });
    });
  }
}

struct Int8Tile {
  static constexpr int kRows = kTileRows;

  template <int kCount>
  static void sums(const std::uint8_t* panel, std::int64_t steps, const std::int8_t* codes,
                   std::int64_t stride, std::int32_t* raw, const Prefetch& prefetch) {
    __m512i sums[kCount][4];
    unroll<kCount>([&](auto r) TANDEM_INLINE {
      unroll<4>([&](auto v) TANDEM_INLINE { sums[r][v] = _mm512_setzero_si512(); });
    });
    add_products<kCount>(panel, steps, codes, stride, sums, prefetch);
    unroll<kCount>([&](auto r) TANDEM_INLINE {
      unroll<4>([&](auto v)
                    TANDEM_INLINE { _mm512_store_si512(raw + r * 64 + v * 16, sums[r][v]); });
    });
  }
};

template <int kRows>
TANDEM_INLINE inline void clear(__m512i (&sums)[kRows][4]) {
  unroll<kRows>([&](auto r) TANDEM_INLINE {
    unroll<4>([&](auto v) TANDEM_INLINE { sums[r][v] = _mm512_setzero_si512(); });
  });
}

template <int kRows>
TANDEM_INLINE inline void add_groups(const __m512i (&sums)[kRows][4], const std::uint8_t* end,
                                     const GroupRows& a, float* acc) {
  const GroupEnd columns(end);
  unroll<kRows>([&](auto r) TANDEM_INLINE {
    unroll<4>([&](auto v) TANDEM_INLINE {
      float* to = acc + r * kColumns + v * 16;
      _mm512_store_ps(to, add_group(sums[r][v], columns, v, a.sums[r * a.groups],
                                    a.scales[r * a.groups], _mm512_load_ps(to)));
    });
  });
}

// All of k for up to six rows, directly from the nibbles, so that the panel is read once. acc:
// [rows][64] in memory.
template <int kRows>
void int4_few_rows(const std::uint8_t* panel, std::int64_t groups, std::int64_t group,
                   const GroupInt8Rows& x, std::int64_t row, float* acc) {
  const __m512i low = _mm512_set1_epi8(15);
  for (std::int64_t i = 0; i < kRows * kColumns; ++i) acc[i] = 0;
  for (std::int64_t g = 0; g < groups; ++g) {
    const GroupRows a = group_rows(x, row, g, group, groups);
    __m512i sums[kRows][4];
    clear<kRows>(sums);
    for (std::int64_t i = 0; i < group / kInt4StepK; ++i) {
      unroll<4>([&](auto v) TANDEM_INLINE { fetch_far(panel + i * kStepBytes + v * 64); });
      __m512i w[4];
      unroll<4>([&](auto v) TANDEM_INLINE {
        w[v] = _mm512_and_si512(load_codes(panel + i * kStepBytes + v * 64), low);
      });
      unroll<kRows>([&](auto r) TANDEM_INLINE {
        const __m512i x4 = broadcast4(a.codes + r * a.stride + i * kInt4StepK);
        unroll<4>([&](auto v) TANDEM_INLINE { sums[r][v] = dots(sums[r][v], w[v], x4); });
      });
      unroll<4>([&](auto v) TANDEM_INLINE {
        w[v] = _mm512_and_si512(_mm512_srli_epi16(load_codes(panel + i * kStepBytes + v * 64), 4),
                                low);
      });
      unroll<kRows>([&](auto r) TANDEM_INLINE {
        const __m512i x4 = broadcast4(a.codes + r * a.stride + i * kInt4StepK + 4);
        unroll<4>([&](auto v) TANDEM_INLINE { sums[r][v] = dots(sums[r][v], w[v], x4); });
      });
    }
    panel += int4_code_bytes(group);
    add_groups<kRows>(sums, panel, a, acc);
    panel += kInt4EndBytes;
  }
}

// One unpacked group for up to six rows; acc: [rows][64] in memory.
template <int kRows>
void int4_group(const std::uint8_t* unpacked, const std::uint8_t* end, std::int64_t group,
                const GroupRows& a, float* acc, const Prefetch& prefetch) {
  __m512i sums[kRows][4];
  clear<kRows>(sums);
  add_products<kRows>(unpacked, group / kInt8StepK, a.codes, a.stride, sums, prefetch);
  add_groups<kRows>(sums, end, a, acc);
}

// From this many rows, nibbles are unpacked once per group for all rows.
constexpr std::int64_t kUnpackRows = 13;
// Bytes of the panel per step of unpacked codes.
constexpr std::int64_t kUnpackedFrom = kStepBytes * kInt8StepK / kInt4StepK;

void linear_int4(const PanelLayout& layout, const std::byte* panels, Range range,
                 const GroupInt8Rows& x, std::int64_t rows, const LinearOutput& out) noexcept {
  const std::int64_t panel_bytes = layout.panel_bytes();
  const std::int64_t group = layout.group;
  const std::int64_t groups = layout.k / group;
  const std::int64_t code_bytes = int4_code_bytes(group);
  const std::int64_t group_bytes = int4_group_bytes(group);
  alignas(64) float acc[kChunkRows * kColumns];
  alignas(64) std::uint8_t unpacked[kMaxGroup * kColumns];
  for (std::int64_t p = range.begin; p < range.end; ++p) {
    const auto* panel = reinterpret_cast<const std::uint8_t*>(panels + p * panel_bytes);
    if (rows < kUnpackRows) {
      for_row_blocks(rows, kTileRows, [&](std::int64_t first, std::int64_t count) {
        with_constant<kTileRows>(count, [&](auto constant) {
          int4_few_rows<constant>(panel, groups, group, x, first, acc);
        });
        store_rows(acc, count, p * kColumns, layout.n, out, out.y + first * out.stride);
      });
      continue;
    }
    for_row_blocks(rows, kChunkRows, [&](std::int64_t chunk, std::int64_t chunk_rows) {
      for (std::int64_t i = 0; i < chunk_rows * kColumns; ++i) acc[i] = 0;
      for (std::int64_t g = 0; g < groups; ++g) {
        unpack_group(panel + g * group_bytes, group, unpacked);
        // The next group, in this panel or in the next one.
        const std::byte* next = panels + p * panel_bytes + (g + 1) * group_bytes;
        for_row_blocks(chunk_rows, kTileRows, [&](std::int64_t first, std::int64_t count) {
          const GroupRows a = group_rows(x, chunk + first, g, group, groups);
          const Prefetch prefetch = prefetch_for(next - group_bytes, next, group / kInt8StepK,
                                                 kUnpackedFrom, first, chunk_rows, kTileRows);
          with_constant<kTileRows>(count, [&](auto constant) {
            int4_group<constant>(unpacked, panel + g * group_bytes + code_bytes, group, a,
                                 acc + first * kColumns, prefetch);
          });
        });
      }
      store_rows(acc, chunk_rows, p * kColumns, layout.n, out, out.y + chunk * out.stride);
    });
  }
}

std::int64_t peak_loop(std::int64_t iterations, std::int32_t* sink) noexcept {
  constexpr int kChains = 24;
  __m512i sums[kChains];
  const __m512i a = _mm512_set1_epi32(*sink);
  const __m512i b = _mm512_set1_epi32(*sink + 1);
  unroll<kChains>([&](auto c) TANDEM_INLINE { sums[c] = _mm512_set1_epi32(c); });
  for (std::int64_t i = 0; i < iterations; ++i)
    unroll<kChains>([&](auto c) TANDEM_INLINE { sums[c] = dots(sums[c], a, b); });
  __m512i total = sums[0];
  unroll<kChains - 1>([&](auto c) TANDEM_INLINE { total = _mm512_add_epi32(total, sums[c + 1]); });
  *sink = _mm_cvtsi128_si32(_mm512_castsi512_si128(total));
  return iterations * kChains * 64 * 2;
}

}  // namespace

void vnni_linear_int8(const PanelLayout& layout, const std::byte* panels, Range range,
                      const StaticInt8Rows& x, std::int64_t rows,
                      const LinearOutput& out) noexcept {
  Int8Linear<Int8Tile>::linear(layout, panels, range, x, rows, out);
}

void vnni_linear_int8_sums(const PanelLayout& layout, const std::byte* panels, Range range,
                           const StaticInt8Rows& x, std::int64_t rows, std::int32_t* sums,
                           std::int64_t stride) noexcept {
  Int8Linear<Int8Tile>::sums(layout, panels, range, x, rows, sums, stride);
}

void vnni_linear_int4(const PanelLayout& layout, const std::byte* panels, Range range,
                      const GroupInt8Rows& x, std::int64_t rows, const LinearOutput& out) noexcept {
  linear_int4(layout, panels, range, x, rows, out);
}

void use_linear_vnni(Kernels& table) noexcept {
  table.linear_int8 = vnni_linear_int8;
  table.linear_int8_sums = vnni_linear_int8_sums;
  table.linear_int4 = vnni_linear_int4;
  table.int8_peak_loop = peak_loop;
}

}  // namespace tandem
