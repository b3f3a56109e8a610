// Groups of int4 weights in AVX-512 registers: unpacking their nibbles, and accumulating their
// sums.
#pragma once

#include "kernels/x86/int_linear.h"
#include "kernels/x86/intrinsics.h"

namespace tandem {
namespace {

inline constexpr std::int64_t kMaxGroup = 128;
// Rows whose accumulators, 32 KiB, stay in the cache while all groups of a panel are added to them.
inline constexpr std::int64_t kChunkRows = 128;

TANDEM_INLINE inline __m512i load_codes(const std::uint8_t* p) { return _mm512_loadu_si512(p); }

// What follows a group's codes: scales and zero points of 64 columns.
struct GroupEnd {
  __m512 scales[4];
  // 16-bit values in the low half of each lane.
  __m512i zeros[4];

  TANDEM_INLINE explicit GroupEnd(const std::uint8_t* end) {
    unroll<4>([&](auto v) TANDEM_INLINE {
      scales[v] = _mm512_cvtph_ps(
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(int4_scales(end) + v * 32)));
      zeros[v] = _mm512_cvtepu8_epi32(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(int4_zeros(end) + v * 16)));
    });
  }
};

// acc + float(sums - zero_point * row_sum) * (x_scale * scale). The zero point (at most 15) and the
// row's sum (at most 128 * 128) fit in 16 bits, so that one vpdpwssd subtracts their product.
TANDEM_INLINE inline __m512 add_group(__m512i sums, const GroupEnd& end, int v,
                                      std::int32_t row_sum, float x_scale, __m512 acc) {
  sums = _mm512_dpwssd_epi32(sums, end.zeros[v], _mm512_set1_epi32(-row_sum & 0xFFFF));
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums),
                         _mm512_mul_ps(_mm512_set1_ps(x_scale), end.scales[v]), acc);
}

// Unpacks the nibbles of one group to bytes in the order of an int8 panel: each step becomes two.
TANDEM_INLINE inline void unpack_group(const std::uint8_t* panel, std::int64_t group,
                                       std::uint8_t* out) {
  const __m512i low = _mm512_set1_epi8(15);
  for (std::int64_t i = 0; i < group / kInt4StepK; ++i)
    unroll<4>([&](auto v) TANDEM_INLINE {
      const __m512i pair = load_codes(panel + i * kStepBytes + v * 64);
      _mm512_store_si512(out + 2 * i * kStepBytes + v * 64, _mm512_and_si512(pair, low));
      _mm512_store_si512(out + (2 * i + 1) * kStepBytes + v * 64,
                         _mm512_and_si512(_mm512_srli_epi16(pair, 4), low));
    });
}

}  // namespace
}  // namespace tandem
