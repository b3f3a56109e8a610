// Sixteen floats: the vector operations that the float kernels use, for AVX-512.
#pragma once

#include <cstdint>

#include "kernels/x86/intrinsics.h"
#include "kernels/x86/unroll.h"

namespace tandem {
namespace {

struct Vec512 {
  static constexpr int kWidth = 16;
  // Register tile of a matrix product: 6 x 4 accumulators, …
  static constexpr int kTileRows = 6;
  // … 4 weights and a broadcast are 29 of 32 registers.
  static constexpr int kTileVectors = 4;
  using Float = __m512;
  using Int = __m512i;

  TANDEM_INLINE static Float zero() { return _mm512_setzero_ps(); }
  TANDEM_INLINE static Float set1(float v) { return _mm512_set1_ps(v); }
  TANDEM_INLINE static Float load(const float* p) { return _mm512_loadu_ps(p); }
  TANDEM_INLINE static void store(float* p, Float v) { _mm512_storeu_ps(p, v); }
  // The first `count` (1…16) elements; the others are read as zero and not written.
  TANDEM_INLINE static Float load_part(const float* p, std::int64_t count) {
    return _mm512_maskz_loadu_ps(mask(count), p);
  }
  TANDEM_INLINE static void store_part(float* p, Float v, std::int64_t count) {
    _mm512_mask_storeu_ps(p, mask(count), v);
  }

  TANDEM_INLINE static Float load_f16(const std::uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  TANDEM_INLINE static Float load_f16_part(const std::uint16_t* p, std::int64_t count) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask(count), p));
  }
  TANDEM_INLINE static void store_f16_part(std::uint16_t* p, Float v, std::int64_t count) {
    const __m256i half = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_mask_storeu_epi16(p, mask(count), half);
  }
  TANDEM_INLINE static Float load_int8(const std::int8_t* p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  TANDEM_INLINE static Float load_int8_part(const std::int8_t* p, std::int64_t count) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask(count), p)));
  }
  TANDEM_INLINE static Float load_bf16(const std::uint16_t* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }

  TANDEM_INLINE static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
  TANDEM_INLINE static Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
  TANDEM_INLINE static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
  TANDEM_INLINE static Float div(Float a, Float b) { return _mm512_div_ps(a, b); }
  TANDEM_INLINE static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  // c - a * b
  TANDEM_INLINE static Float fnma(Float a, Float b, Float c) { return _mm512_fnmadd_ps(a, b, c); }
  // The second operand if either is NaN.
  TANDEM_INLINE static Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
  TANDEM_INLINE static Float min(Float a, Float b) { return _mm512_min_ps(a, b); }
  TANDEM_INLINE static Float abs(Float a) { return _mm512_abs_ps(a); }
  TANDEM_INLINE static Float round(Float a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // a * 2^n for integers n in [-126, 127].
  TANDEM_INLINE static Float scale_by_power(Float a, Float n) { return _mm512_scalef_ps(a, n); }
  // v in lanes [begin, end), `other` elsewhere.
  TANDEM_INLINE static Float select_lanes(Float v, Float other, std::int64_t begin,
                                          std::int64_t end) {
    const __mmask16 lanes = static_cast<__mmask16>(mask(end) & ~mask(begin));
    return _mm512_mask_mov_ps(other, lanes, v);
  }

  // As in Vec256.
  TANDEM_INLINE static Float hadamard(Float v) {
    const Float signs1 = _mm512_setr_ps(1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1);
    v = _mm512_fmadd_ps(v, signs1, _mm512_permute_ps(v, 0xB1));
    const Float signs2 = _mm512_setr_ps(1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1);
    v = _mm512_fmadd_ps(v, signs2, _mm512_permute_ps(v, 0x4E));
    const Float signs4 = _mm512_setr_ps(1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1);
    v = _mm512_fmadd_ps(v, signs4, _mm512_shuffle_f32x4(v, v, 0xB1));
    const Float signs8 = _mm512_setr_ps(1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1);
    return _mm512_fmadd_ps(v, signs8, _mm512_shuffle_f32x4(v, v, 0x4E));
  }

  TANDEM_INLINE static float sum(Float v) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps(pair, pair, 1)));
  }
  TANDEM_INLINE static float largest(Float v) {
    const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    const __m128 pair = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_max_ss(pair, _mm_shuffle_ps(pair, pair, 1)));
  }

  // Rounds (half to even) to integers, which must lie in [-128, 127].
  TANDEM_INLINE static Int to_int(Float v) { return _mm512_cvtps_epi32(v); }
  TANDEM_INLINE static Int zero_int() { return _mm512_setzero_si512(); }
  TANDEM_INLINE static Int add_int(Int a, Int b) { return _mm512_add_epi32(a, b); }
  // Of int32, or pairs of int16.
  TANDEM_INLINE static Int load_int(const void* p) {
    return _mm512_loadu_si512(static_cast<const __m512i*>(p));
  }
  TANDEM_INLINE static void store_int(void* p, Int v) {
    _mm512_storeu_si512(static_cast<__m512i*>(p), v);
  }
  TANDEM_INLINE static Int set1_int(std::int32_t v) { return _mm512_set1_epi32(v); }
  // Sums of the two products of each pair of int16.
  TANDEM_INLINE static Int multiply_pairs(Int a, Int b) { return _mm512_madd_epi16(a, b); }
  TANDEM_INLINE static void store_int8_part(std::int8_t* p, Int v, std::int64_t count) {
    _mm_mask_storeu_epi8(p, mask(count), _mm512_cvtepi32_epi8(v));
  }
  TANDEM_INLINE static std::int32_t sum_int(Int v) {
    const __m256i half =
        _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    const __m128i quarter =
        _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    const __m128i pair = _mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(pair, _mm_shuffle_epi32(pair, 0xB1)));
  }

 private:
  // A mask of the lowest `count` lanes; none for count < 1, all for count >= 16.
  TANDEM_INLINE static __mmask16 mask(std::int64_t count) {
    if (count <= 0) return 0;
    return static_cast<__mmask16>(count >= kWidth ? 0xFFFFU : (1U << count) - 1U);
  }
};

}  // namespace
}  // namespace tandem
