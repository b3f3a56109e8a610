// Eight floats: the vector operations that the float kernels use, for AVX2 with FMA and F16C.
#pragma once

#include <cstdint>

#include "kernels/x86/intrinsics.h"
#include "kernels/x86/unroll.h"

namespace tandem {
namespace {

struct Vec256 {
  static constexpr int kWidth = 8;
  // Register tile of a matrix product: 6 x 2 accumulators, …
  static constexpr int kTileRows = 6;
  // … 2 weights and a broadcast are 15 of 16 registers.
  static constexpr int kTileVectors = 2;
  using Float = __m256;
  using Int = __m256i;

  TANDEM_INLINE static Float zero() { return _mm256_setzero_ps(); }
  TANDEM_INLINE static Float set1(float v) { return _mm256_set1_ps(v); }
  TANDEM_INLINE static Float load(const float* p) { return _mm256_loadu_ps(p); }
  TANDEM_INLINE static void store(float* p, Float v) { _mm256_storeu_ps(p, v); }
  // The first `count` (1…8) elements; the others are read as zero and not written.
  TANDEM_INLINE static Float load_part(const float* p, std::int64_t count) {
    return _mm256_maskload_ps(p, mask(0, count));
  }
  TANDEM_INLINE static void store_part(float* p, Float v, std::int64_t count) {
    _mm256_maskstore_ps(p, mask(0, count), v);
  }

  TANDEM_INLINE static Float load_f16(const std::uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  TANDEM_INLINE static Float load_f16_part(const std::uint16_t* p, std::int64_t count) {
    alignas(16) std::uint16_t part[kWidth] = {};
    for (std::int64_t i = 0; i < count && i < kWidth; ++i) part[i] = p[i];
    return load_f16(part);
  }
  TANDEM_INLINE static void store_f16_part(std::uint16_t* p, Float v, std::int64_t count) {
    const __m128i half = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    if (count >= kWidth) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), half);
      return;
    }
    alignas(16) std::uint16_t part[kWidth];
    _mm_store_si128(reinterpret_cast<__m128i*>(part), half);
    for (std::int64_t i = 0; i < count; ++i) p[i] = part[i];
  }
  TANDEM_INLINE static Float load_int8(const std::int8_t* p) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  TANDEM_INLINE static Float load_int8_part(const std::int8_t* p, std::int64_t count) {
    alignas(8) std::int8_t part[kWidth] = {};
    for (std::int64_t i = 0; i < count && i < kWidth; ++i) part[i] = p[i];
    return load_int8(part);
  }
  TANDEM_INLINE static Float load_bf16(const std::uint16_t* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }

  TANDEM_INLINE static Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
  TANDEM_INLINE static Float sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
  TANDEM_INLINE static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
  TANDEM_INLINE static Float div(Float a, Float b) { return _mm256_div_ps(a, b); }
  TANDEM_INLINE static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  // c - a * b
  TANDEM_INLINE static Float fnma(Float a, Float b, Float c) { return _mm256_fnmadd_ps(a, b, c); }
  // The second operand if either is NaN.
  TANDEM_INLINE static Float max(Float a, Float b) { return _mm256_max_ps(a, b); }
  TANDEM_INLINE static Float min(Float a, Float b) { return _mm256_min_ps(a, b); }
  TANDEM_INLINE static Float abs(Float a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), a); }
  TANDEM_INLINE static Float round(Float a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // a * 2^n for integers n in [-126, 127].
  TANDEM_INLINE static Float scale_by_power(Float a, Float n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  }
  // v in lanes [begin, end), `other` elsewhere.
  TANDEM_INLINE static Float select_lanes(Float v, Float other, std::int64_t begin,
                                          std::int64_t end) {
    return _mm256_blendv_ps(other, v, _mm256_castsi256_ps(mask(begin, end)));
  }

  // v times the matrix of entries (-1)^popcount(i & j): with an element and its partner i ^ stride,
  // the sum where i has no bit of the stride, and else the partner minus it.
  TANDEM_INLINE static Float hadamard(Float v) {
    const Float signs1 = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
    v = _mm256_fmadd_ps(v, signs1, _mm256_permute_ps(v, 0xB1));
    const Float signs2 = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
    v = _mm256_fmadd_ps(v, signs2, _mm256_permute_ps(v, 0x4E));
    const Float signs4 = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
    return _mm256_fmadd_ps(v, signs4, _mm256_permute2f128_ps(v, v, 1));
  }

  TANDEM_INLINE static float sum(Float v) {
    const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps(pair, pair, 1)));
  }
  TANDEM_INLINE static float largest(Float v) {
    const __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 pair = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_max_ss(pair, _mm_shuffle_ps(pair, pair, 1)));
  }

  // Rounds (half to even) to integers, which must lie in [-128, 127].
  TANDEM_INLINE static Int to_int(Float v) { return _mm256_cvtps_epi32(v); }
  TANDEM_INLINE static Int zero_int() { return _mm256_setzero_si256(); }
  TANDEM_INLINE static Int add_int(Int a, Int b) { return _mm256_add_epi32(a, b); }
  // Of int32, or pairs of int16.
  TANDEM_INLINE static Int load_int(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  TANDEM_INLINE static void store_int(void* p, Int v) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), v);
  }
  TANDEM_INLINE static Int set1_int(std::int32_t v) { return _mm256_set1_epi32(v); }
  // Sums of the two products of each pair of int16.
  TANDEM_INLINE static Int multiply_pairs(Int a, Int b) { return _mm256_madd_epi16(a, b); }
  TANDEM_INLINE static void store_int8_part(std::int8_t* p, Int v, std::int64_t count) {
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    const __m128i bytes = _mm_packs_epi16(words, words);
    if (count >= kWidth) {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(p), bytes);
      return;
    }
    alignas(16) std::int8_t part[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(part), bytes);
    for (std::int64_t i = 0; i < count; ++i) p[i] = part[i];
  }
  TANDEM_INLINE static std::int32_t sum_int(Int v) {
    const __m128i quarter =
        _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    const __m128i pair = _mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(pair, _mm_shuffle_epi32(pair, 0xB1)));
  }

 private:
  // All bits set in lanes [begin, end).
  TANDEM_INLINE static __m256i mask(std::int64_t begin, std::int64_t end) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i from = _mm256_set1_epi32(static_cast<int>(begin < 0 ? 0 : begin) - 1);
    const __m256i to = _mm256_set1_epi32(static_cast<int>(end > kWidth ? kWidth : end));
    return _mm256_and_si256(_mm256_cmpgt_epi32(lane, from), _mm256_cmpgt_epi32(to, lane));
  }
};

}  // namespace
}  // namespace tandem
