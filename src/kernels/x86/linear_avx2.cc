// Integer matrix products with AVX2. vpmaddubsw saturates for 8-bit codes, so int8 weights are
// widened to 16 bits and multiplied with vpmaddwd; nibbles are small enough for vpmaddubsw.
#include "kernels/x86/int_linear.h"
#include "kernels/x86/intrinsics.h"
#include "kernels/x86/layers.h"

namespace tandem {

namespace {

TANDEM_INLINE inline __m256i load_codes(const std::uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

TANDEM_INLINE inline std::int32_t load4(const std::int8_t* p) {
  std::int32_t four;
  __builtin_memcpy(&four, p, sizeof(four));
  return four;
}

// Two rows x 16 columns; a lane holds half of a column's sum, because vpmaddwd adds two products,
// not four.
struct Int8Tile {
  static constexpr int kRows = 2;

  template <int kCount>
  static void sums(const std::uint8_t* panel, std::int64_t steps, const std::int8_t* codes,
                   std::int64_t stride, std::int32_t* raw, const Prefetch& prefetch) {
    for (std::int64_t c = 0; c < kColumns; c += 16) {
      __m256i sums[kCount][4];
      unroll<kCount>([&](auto r) TANDEM_INLINE {
        unroll<4>([&](auto v) TANDEM_INLINE { sums[r][v] = _mm256_setzero_si256(); });
      });
      for (std::int64_t i = 0; i < steps; ++i) {
        prefetch.fetch(i);
        __m256i w[4];
        unroll<4>([&](auto v) TANDEM_INLINE {
          const std::uint8_t* from = panel + i * kStepBytes + c * kInt8StepK + v * 16;
          w[v] = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
        });
        unroll<kCount>([&](auto r) TANDEM_INLINE {
          const __m256i a = _mm256_broadcastq_epi64(
              _mm_cvtepi8_epi16(_mm_cvtsi32_si128(load4(codes + r * stride + i * kInt8StepK))));
          unroll<4>([&](auto v) TANDEM_INLINE {
            sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(w[v], a));
          });
        });
      }
      // hadd leaves columns in the order 0 1 4 5 2 3 6 7 in each pair of registers; the permutation
      // restores it.
      unroll<kCount>([&](auto r) TANDEM_INLINE {
        unroll<2>([&](auto half) TANDEM_INLINE {
          const __m256i mixed = _mm256_hadd_epi32(sums[r][2 * half], sums[r][2 * half + 1]);
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(raw + r * kColumns + c + half * 8),
                              _mm256_permute4x64_epi64(mixed, 0xD8));
        });
      });
    }
  }
};

// All of k for up to four rows and 16 columns. Products of nibbles and codes are at most 15 * 128,
// so sixteen of them, four steps of two pairs, fit in 16 bits.
constexpr int kInt4Rows = 4;

template <int kRows>
void int4_tile(const std::uint8_t* panel, std::int64_t column, std::int64_t groups,
               std::int64_t group, const GroupInt8Rows& x, std::int64_t row, float* acc_out) {
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256 acc[kRows][2];
  unroll<kRows>([&](auto r) TANDEM_INLINE {
    unroll<2>([&](auto v) TANDEM_INLINE { acc[r][v] = _mm256_setzero_ps(); });
  });
  for (std::int64_t g = 0; g < groups; ++g) {
    const GroupRows a = group_rows(x, row, g, group, groups);
    __m256i sums[kRows][2];
    unroll<kRows>([&](auto r) TANDEM_INLINE {
      unroll<2>([&](auto v) TANDEM_INLINE { sums[r][v] = _mm256_setzero_si256(); });
    });
    for (std::int64_t i = 0; i < group / kInt4StepK; i += 4) {
      __m256i words[kRows][2];
      unroll<kRows>([&](auto r) TANDEM_INLINE {
        unroll<2>([&](auto v) TANDEM_INLINE { words[r][v] = _mm256_setzero_si256(); });
      });
      for (std::int64_t j = i; j < i + 4; ++j) {
        __m256i w[2], high[2];
        unroll<2>([&](auto v) TANDEM_INLINE {
          const __m256i pair = load_codes(panel + j * kStepBytes + column * 4 + v * 32);
          w[v] = _mm256_and_si256(pair, low);
          high[v] = _mm256_and_si256(_mm256_srli_epi16(pair, 4), low);
        });
        unroll<kRows>([&](auto r) TANDEM_INLINE {
          const std::int8_t* from = a.codes + r * a.stride + j * kInt4StepK;
          const __m256i x0 = _mm256_set1_epi32(load4(from));
          const __m256i x1 = _mm256_set1_epi32(load4(from + 4));
          unroll<2>([&](auto v) TANDEM_INLINE {
            words[r][v] = _mm256_add_epi16(words[r][v], _mm256_maddubs_epi16(w[v], x0));
            words[r][v] = _mm256_add_epi16(words[r][v], _mm256_maddubs_epi16(high[v], x1));
          });
        });
      }
      unroll<kRows>([&](auto r) TANDEM_INLINE {
        unroll<2>([&](auto v) TANDEM_INLINE {
          sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(words[r][v], ones));
        });
      });
    }
    const std::uint8_t* end = panel + int4_code_bytes(group);
    unroll<2>([&](auto v) TANDEM_INLINE {
      const __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128(
          reinterpret_cast<const __m128i*>(int4_scales(end) + (column + v * 8) * 2)));
      const __m256i zero = _mm256_cvtepu8_epi32(
          _mm_loadl_epi64(reinterpret_cast<const __m128i*>(int4_zeros(end) + column + v * 8)));
      unroll<kRows>([&](auto r) TANDEM_INLINE {
        const __m256i minus = _mm256_mullo_epi32(zero, _mm256_set1_epi32(a.sums[r * a.groups]));
        const __m256 sum = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[r][v], minus));
        const __m256 factor = _mm256_mul_ps(_mm256_set1_ps(a.scales[r * a.groups]), scale);
        acc[r][v] = _mm256_fmadd_ps(sum, factor, acc[r][v]);
      });
    });
    panel = end + kInt4EndBytes;
  }
  unroll<kRows>([&](auto r) TANDEM_INLINE {
    unroll<2>([&](auto v) TANDEM_INLINE {
      _mm256_storeu_ps(acc_out + r * kColumns + column + v * 8, acc[r][v]);
    });
  });
}

void linear_int4(const PanelLayout& layout, const std::byte* panels, Range range,
                 const GroupInt8Rows& x, std::int64_t rows, const LinearOutput& out) noexcept {
  const std::int64_t panel_bytes = layout.panel_bytes();
  const std::int64_t groups = layout.k / layout.group;
  alignas(64) float acc[kInt4Rows * kColumns];
  for (std::int64_t p = range.begin; p < range.end; ++p) {
    const auto* panel = reinterpret_cast<const std::uint8_t*>(panels + p * panel_bytes);
    for_row_blocks(rows, kInt4Rows, [&](std::int64_t first, std::int64_t count) {
      for (std::int64_t c = 0; c < kColumns; c += 16)
        with_constant<kInt4Rows>(count, [&](auto constant) {
          int4_tile<constant>(panel, c, groups, layout.group, x, first, acc);
        });
      store_rows(acc, count, p * kColumns, layout.n, out, out.y + first * out.stride);
    });
  }
}

// The loop of linear_int8: two 16-bit multiply-adds and their sum for every 32 weights.
std::int64_t peak_loop(std::int64_t iterations, std::int32_t* sink) noexcept {
  constexpr int kChains = 12;
  __m256i sums[kChains];
  unroll<kChains>([&](auto c) TANDEM_INLINE { sums[c] = _mm256_set1_epi32(c + *sink); });
  __m256i a = _mm256_set1_epi32(*sink);
  const __m256i b = _mm256_set1_epi32(*sink + 1);
  for (std::int64_t i = 0; i < iterations; ++i) {
    unroll<kChains>([&](auto c) TANDEM_INLINE {
      __asm__ volatile("" : "+x"(a));  // so that each product is computed, and not one for all
      sums[c] = _mm256_add_epi32(sums[c], _mm256_madd_epi16(a, b));
    });
  }
  __m256i total = sums[0];
  unroll<kChains - 1>([&](auto c) TANDEM_INLINE { total = _mm256_add_epi32(total, sums[c + 1]); });
  *sink = _mm_cvtsi128_si32(_mm256_castsi256_si128(total));
  return iterations * kChains * 16 * 2;
}

}  // namespace

void use_linear_avx2(Kernels& table) noexcept {
  table.linear_int8 = Int8Linear<Int8Tile>::linear;
  table.linear_int8_sums = Int8Linear<Int8Tile>::sums;
  table.linear_int4 = linear_int4;
  table.int8_peak_loop = peak_loop;
}

}  // namespace tandem
