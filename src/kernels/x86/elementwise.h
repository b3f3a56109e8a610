// Norm, rotary embedding, activation, Hadamard transform, row sums, the activation quantizers and
// products with what they clip, on vectors V.
#pragma once

#include <cfloat>

#include "kernels/kernels.h"
#include "kernels/ref/ref.h"
#include "kernels/tables.h"
#include "kernels/x86/exp.h"
#include "kernels/x86/unroll.h"

namespace tandem {
namespace {

template <typename V>
struct Elementwise {
  using Float = typename V::Float;
  static constexpr std::int64_t kWidth = V::kWidth;

  // Calls body(offset, count) for whole vectors, then for the remainder.
  template <typename Body>
  TANDEM_INLINE static void for_vectors(std::int64_t n, const Body& body) {
    std::int64_t i = 0;
    for (; i + kWidth <= n; i += kWidth) body(i, kWidth);
    if (i < n) body(i, n - i);
  }

  static void add(const float* a, const float* b, std::int64_t n, float* y) noexcept {
    for_vectors(n, [&](std::int64_t i, std::int64_t count) TANDEM_INLINE {
      V::store_part(y + i, V::add(V::load_part(a + i, count), V::load_part(b + i, count)), count);
    });
  }

  static void mul(const float* a, const float* b, std::int64_t n, float* y) noexcept {
    for_vectors(n, [&](std::int64_t i, std::int64_t count) TANDEM_INLINE {
      V::store_part(y + i, V::mul(V::load_part(a + i, count), V::load_part(b + i, count)), count);
    });
  }

  static void silu(const float* x, std::int64_t n, float* y) noexcept {
    const Float one = V::set1(1.0F);
    for_vectors(n, [&](std::int64_t i, std::int64_t count) TANDEM_INLINE {
      const Float value = V::load_part(x + i, count);
      const Float denominator = V::add(one, exp<V>(V::sub(V::zero(), value)));
      V::store_part(y + i, V::div(value, denominator), count);
    });
  }

  static void gelu(const float* x, std::int64_t n, float* y) noexcept {
    const Float one = V::set1(1.0F);
    const Float scale = V::set1(-kGeluScale);
    const Float cubic = V::set1(kGeluCubic);
    for_vectors(n, [&](std::int64_t i, std::int64_t count) TANDEM_INLINE {
      const Float value = V::load_part(x + i, count);
      const Float cube = V::mul(V::mul(value, value), value);
      const Float exponent = V::mul(scale, V::fma(cubic, cube, value));
      V::store_part(y + i, V::div(value, V::add(one, exp<V>(exponent))), count);
    });
  }

  static void softcap(const float* x, float cap, std::int64_t n, float* y) noexcept {
    const Float bound = V::set1(cap);
    for_vectors(n, [&](std::int64_t i, std::int64_t count) TANDEM_INLINE {
      const Float value = V::div(V::load_part(x + i, count), bound);
      V::store_part(y + i, V::mul(bound, tanh<V>(value)), count);
    });
  }

  static void rms_norm(const float* x, const float* weight, float epsilon, std::int64_t n,
                       float* y) noexcept {
    Float squares[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
    std::int64_t i = 0;
    for (; i + 4 * kWidth <= n; i += 4 * kWidth)
      unroll<4>([&](auto v) TANDEM_INLINE {
        const Float value = V::load(x + i + v * kWidth);
        squares[v] = V::fma(value, value, squares[v]);
      });
    for_vectors(n - i, [&](std::int64_t j, std::int64_t count) TANDEM_INLINE {
      const Float value = V::load_part(x + i + j, count);
      squares[0] = V::fma(value, value, squares[0]);
    });
    const float sum =
        V::sum(V::add(V::add(squares[0], squares[1]), V::add(squares[2], squares[3])));
    const float inverse = 1.0F / __builtin_sqrtf(sum / static_cast<float>(n) + epsilon);
    const Float factor = V::set1(inverse);
    for_vectors(n, [&](std::int64_t j, std::int64_t count) TANDEM_INLINE {
      const Float value = V::mul(V::load_part(x + j, count), factor);
      V::store_part(y + j, V::mul(value, V::load_part(weight + j, count)), count);
    });
  }

  static void rope(float* x, std::int64_t heads, std::int64_t head_dim, std::int64_t rotary_dim,
                   const float* cos, const float* sin) noexcept {
    const std::int64_t half = rotary_dim / 2;
    for (std::int64_t h = 0; h < heads; ++h) {
      float* head = x + h * head_dim;
      for_vectors(half, [&](std::int64_t i, std::int64_t count) TANDEM_INLINE {
        const Float a = V::load_part(head + i, count);
        const Float b = V::load_part(head + half + i, count);
        const Float c = V::load_part(cos + i, count);
        const Float s = V::load_part(sin + i, count);
        V::store_part(head + i, V::fnma(b, s, V::mul(a, c)), count);
        V::store_part(head + half + i, V::fma(a, s, V::mul(b, c)), count);
      });
    }
  }

  // The butterflies of strides up to half a vector stay in a register, the others go over the row
  // in threes, with one load and store of each value. The order of additions is that of the
  // definition.
  static void hadamard(float* x, std::int64_t n) noexcept {
    if (n < kWidth) return ref::hadamard(x, n);
    for (std::int64_t i = 0; i < n; i += kWidth) V::store(x + i, V::hadamard(V::load(x + i)));
    std::int64_t stride = kWidth;
    for (; 8 * stride <= n; stride *= 8) butterflies<3>(x, n, stride);
    if (4 * stride == n) butterflies<2>(x, n, stride);
    if (2 * stride == n) butterflies<1>(x, n, stride);
    const Float scale = V::set1(static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(n))));
    for (std::int64_t i = 0; i < n; i += kWidth) V::store(x + i, V::mul(V::load(x + i), scale));
  }

  // Those of the strides stride, 2 stride, … of which there are kStages.
  template <int kStages>
  TANDEM_INLINE static void butterflies(float* x, std::int64_t n, std::int64_t stride) {
    constexpr int kValues = 1 << kStages;
    for (std::int64_t block = 0; block < n; block += kValues * stride)
      for (std::int64_t i = block; i < block + stride; i += kWidth) {
        Float values[kValues];
        unroll<kValues>([&](auto v) TANDEM_INLINE { values[v] = V::load(x + i + v * stride); });
        unroll<kStages>([&](auto stage) TANDEM_INLINE {
          unroll<kValues>([&](auto v) TANDEM_INLINE {
            constexpr int kStep = 1 << decltype(stage)::value;
            if constexpr ((decltype(v)::value & kStep) == 0) {
              const Float a = values[v], b = values[v + kStep];
              values[v] = V::add(a, b);
              values[v + kStep] = V::sub(a, b);
            }
          });
        });
        unroll<kValues>([&](auto v) TANDEM_INLINE { V::store(x + i + v * stride, values[v]); });
      }
  }

  static void mix(const float* x, const float* factor, std::int64_t m, std::int64_t n,
                  float* y) noexcept {
    std::int64_t c = 0;
    for (; c + 2 * kWidth <= n; c += 2 * kWidth) mix_columns<2>(x + c, factor, m, n, kWidth, y + c);
    for (; c < n; c += kWidth)
      mix_columns<1>(x + c, factor, m, n, n - c < kWidth ? n - c : kWidth, y + c);
  }

  // kVectors vectors of columns, of which the last has `count`.
  template <int kVectors>
  TANDEM_INLINE static void mix_columns(const float* x, const float* factor, std::int64_t m,
                                        std::int64_t n, std::int64_t count, float* y) {
    std::int64_t j = 0;
    for (; j + 4 <= m; j += 4) mix_tile<kVectors, 4>(x, factor + j, m, n, count, y + j * n);
    for (; j < m; ++j) mix_tile<kVectors, 1>(x, factor + j, m, n, count, y + j * n);
  }

  template <int kVectors, int kRows>
  TANDEM_INLINE static void mix_tile(const float* x, const float* factor, std::int64_t m,
                                     std::int64_t n, std::int64_t count, float* y) {
    Float sums[kRows][kVectors];
    unroll<kRows>([&](auto r) TANDEM_INLINE {
      unroll<kVectors>([&](auto v) TANDEM_INLINE { sums[r][v] = V::zero(); });
    });
    for (std::int64_t i = 0; i < m; ++i) {
      Float values[kVectors];
      unroll<kVectors>([&](auto v) TANDEM_INLINE {
        values[v] = V::load_part(x + i * n + v * kWidth, v + 1 < kVectors ? kWidth : count);
      });
      unroll<kRows>([&](auto r) TANDEM_INLINE {
        const Float entry = V::set1(factor[i * m + r]);
        unroll<kVectors>([&](auto v)
                             TANDEM_INLINE { sums[r][v] = V::fma(entry, values[v], sums[r][v]); });
      });
    }
    unroll<kRows>([&](auto r) TANDEM_INLINE {
      unroll<kVectors>([&](auto v) TANDEM_INLINE {
        V::store_part(y + r * n + v * kWidth, sums[r][v], v + 1 < kVectors ? kWidth : count);
      });
    });
  }

  static void shadow_linear(const float* x, float scale, const std::int32_t* channels,
                            std::int64_t hot, const std::byte* weight, DType dtype, std::int64_t n,
                            float* y) noexcept {
    for_vectors(n, [&](std::int64_t i, std::int64_t count)
                       TANDEM_INLINE { V::store_part(y + i, V::zero(), count); });
    // A little less than what is clipped: most values need no division.
    const float limit = 127.0F * scale;
    const auto* floats = reinterpret_cast<const float*>(weight);
    const auto* halves = reinterpret_cast<const std::uint16_t*>(weight);
    for (std::int64_t h = 0; h < hot; ++h) {
      const float value = x[channels[h]];
      if (!(value > limit || value < -limit)) continue;
      const float clipped = ref::clipped_part(value, scale);
      if (clipped == 0) continue;
      const Float e = V::set1(clipped);
      for_vectors(n, [&](std::int64_t i, std::int64_t count) TANDEM_INLINE {
        const Float w = dtype == DType::kF32 ? V::load_part(floats + h * n + i, count)
                        : count == kWidth    ? V::load_f16(halves + h * n + i)
                                             : V::load_f16_part(halves + h * n + i, count);
        V::store_part(y + i, V::fma(e, w, V::load_part(y + i, count)), count);
      });
    }
  }

  // NaN clamps to the lower bound.
  TANDEM_INLINE static typename V::Int clamp_round(Float value, float low) {
    return V::to_int(V::min(V::max(value, V::set1(low)), V::set1(127.0F)));
  }

  static void quantize_static(const float* x, std::int64_t k, float scale, std::int8_t* codes,
                              std::int32_t* sum) noexcept {
    const Float divisor = V::set1(scale);
    auto total = V::zero_int();
    for_vectors(k, [&](std::int64_t i, std::int64_t count) TANDEM_INLINE {
      const Float quotient = V::div(V::load_part(x + i, count), divisor);
      // Lanes beyond k may be 0 / 0.
      const auto code = clamp_round(V::select_lanes(quotient, V::zero(), 0, count), -128.0F);
      total = V::add_int(total, code);
      V::store_int8_part(codes + i, code, count);
    });
    for (std::int64_t i = k; i < padded_k(k); ++i) codes[i] = 0;
    *sum = V::sum_int(total);
  }

  static void quantize_groups(const float* x, std::int64_t k, std::int64_t group,
                              std::int8_t* codes, float* scales, std::int32_t* sums) noexcept {
    for (std::int64_t g = 0; g < k / group; ++g, x += group, codes += group)
      quantize_group(x, group, codes, scales + g, sums + g);
  }

  static void quantize_dynamic(const float* x, std::int64_t k, std::int8_t* codes, float* scale,
                               std::int32_t* sum) noexcept {
    quantize_group(x, k, codes, scale, sum);
    for (std::int64_t i = k; i < padded_k(k); ++i) codes[i] = 0;
  }

  // A whole vector needs no mask; the branch is resolved when this is inlined into for_vectors().
  TANDEM_INLINE static Float load(const float* p, std::int64_t count) {
    return count == kWidth ? V::load(p) : V::load_part(p, count);
  }

  // Codes, scale and sum of one group, which may end in the middle of a vector.
  TANDEM_INLINE static void quantize_group(const float* x, std::int64_t count, std::int8_t* codes,
                                           float* scale, std::int32_t* sum) {
    Float magnitudes = V::zero();
    for_vectors(count, [&](std::int64_t i, std::int64_t part) TANDEM_INLINE {
      magnitudes = V::max(V::abs(load(x + i, part)), magnitudes);
    });
    const float step = V::largest(magnitudes) / 127.0F;
    // A scale below the normal floats has no finite inverse; such a group is treated as zeros.
    const bool zero = step < FLT_MIN;
    const Float inverse = V::set1(zero ? 0.0F : 1.0F / step);
    auto total = V::zero_int();
    for_vectors(count, [&](std::int64_t i, std::int64_t part) TANDEM_INLINE {
      const Float scaled = V::mul(load(x + i, part), inverse);
      const auto code = clamp_round(zero ? V::zero() : scaled, -127.0F);
      total = V::add_int(total, code);
      V::store_int8_part(codes + i, code, part);
    });
    *scale = zero ? 0.0F : step;
    *sum = V::sum_int(total);
  }
};

template <typename V>
void use_elementwise(Kernels& table) noexcept {
  table.add = Elementwise<V>::add;
  table.mul = Elementwise<V>::mul;
  table.silu = Elementwise<V>::silu;
  table.gelu = Elementwise<V>::gelu;
  table.softcap = Elementwise<V>::softcap;
  table.rms_norm = Elementwise<V>::rms_norm;
  table.rope = Elementwise<V>::rope;
  table.hadamard = Elementwise<V>::hadamard;
  table.mix = Elementwise<V>::mix;
  table.quantize_static = Elementwise<V>::quantize_static;
  table.shadow_linear = Elementwise<V>::shadow_linear;
  table.quantize_groups = Elementwise<V>::quantize_groups;
  table.quantize_dynamic = Elementwise<V>::quantize_dynamic;
}

}  // namespace
}  // namespace tandem
