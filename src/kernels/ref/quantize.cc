// Quantizes activations to int8, with one static scale or one computed scale per row and group, and
// int32 sums back to floats or to codes of another scale; and computes with what is clipped.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>

#include "kernels/ref/ref.h"
#include "tensor/half.h"

namespace tandem::ref {

namespace {

// NaN clamps to the lower bound, as in the vector kernels.
std::int8_t clamp_round(float value, float low) {
  value = value > low ? value : low;
  value = value < 127.0F ? value : 127.0F;
  return static_cast<std::int8_t>(std::nearbyint(value));
}

// Codes, scale and sum of one group.
void quantize_group(const float* x, std::int64_t count, std::int8_t* codes, float* scale,
                    std::int32_t* sum) {
  float largest = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const float magnitude = std::fabs(x[i]);
    largest = magnitude > largest ? magnitude : largest;
  }
  // A scale below the normal floats has no finite inverse; such a group is treated as zeros.
  const float step = largest / 127.0F;
  const bool zero = step < FLT_MIN;
  const float inverse = zero ? 0.0F : 1.0F / step;
  std::int32_t total = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    codes[i] = zero ? std::int8_t{0} : clamp_round(x[i] * inverse, -127.0F);
    total += codes[i];
  }
  *scale = zero ? 0.0F : step;
  *sum = total;
}

// Larger shifts have the same result: nothing is left of an int32, or any non-zero value saturates.
constexpr int kLargestRightShift = 33;
constexpr int kLargestLeftShift = 31;

template <typename Code>
void requantize(const std::int32_t* sums, std::int64_t n, int shift, Code* y) {
  const int right = std::clamp(shift, 0, kLargestRightShift);
  const int left = shift < -kLargestLeftShift ? kLargestLeftShift : shift < 0 ? -shift : 0;
  const std::int64_t half = right > 0 ? std::int64_t{1} << (right - 1) : 0;
  const std::int64_t factor = std::int64_t{1} << left;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t value = (sums[i] * factor + half) >> right;
    y[i] = static_cast<Code>(std::clamp<std::int64_t>(value, std::numeric_limits<Code>::min(),
                                                      std::numeric_limits<Code>::max()));
  }
}

}  // namespace

void quantize_static(const float* x, std::int64_t k, float scale, std::int8_t* codes,
                     std::int32_t* sum) noexcept {
  std::int32_t total = 0;
  for (std::int64_t i = 0; i < k; ++i) {
    codes[i] = clamp_round(x[i] / scale, -128.0F);
    total += codes[i];
  }
  for (std::int64_t i = k; i < padded_k(k); ++i) codes[i] = 0;
  *sum = total;
}

// Half to even: 127.5 rounds to 128, and -128.5 to -128.
float clipped_part(float x, float scale) noexcept {
  const float quotient = x / scale;
  if (quotient >= 127.5F) return std::fma(-127.0F, scale, x);
  if (quotient < -128.5F) return std::fma(128.0F, scale, x);
  return 0;
}

void shadow_linear(const float* x, float scale, const std::int32_t* channels, std::int64_t hot,
                   const std::byte* weight, DType dtype, std::int64_t n, float* y) noexcept {
  std::fill_n(y, n, 0.0F);
  const auto* floats = reinterpret_cast<const float*>(weight);
  const auto* halves = reinterpret_cast<const std::uint16_t*>(weight);
  for (std::int64_t h = 0; h < hot; ++h) {
    const float e = clipped_part(x[channels[h]], scale);
    if (e == 0) continue;
    for (std::int64_t i = h * n; i < (h + 1) * n; ++i) {
      const float w = dtype == DType::kF16 ? f16_to_float(halves[i]) : floats[i];
      y[i - h * n] = std::fma(e, w, y[i - h * n]);
    }
  }
}

void quantize_groups(const float* x, std::int64_t k, std::int64_t group, std::int8_t* codes,
                     float* scales, std::int32_t* sums) noexcept {
  for (std::int64_t g = 0; g < k / group; ++g)
    quantize_group(x + g * group, group, codes + g * group, scales + g, sums + g);
}

void quantize_dynamic(const float* x, std::int64_t k, std::int8_t* codes, float* scale,
                      std::int32_t* sum) noexcept {
  quantize_group(x, k, codes, scale, sum);
  std::fill(codes + k, codes + padded_k(k), std::int8_t{0});
}

void dequantize(const std::int32_t* sums, std::int64_t n, const float* scales, bool per_channel,
                float row_scale, const float* bias, float* y) noexcept {
  for (std::int64_t c = 0; c < n; ++c)
    y[c] = static_cast<float>(sums[c]) * (row_scale * scales[per_channel ? c : 0]);
  if (bias)
    for (std::int64_t c = 0; c < n; ++c) y[c] += bias[c];
}

void requantize_int8(const std::int32_t* sums, std::int64_t n, int shift, std::int8_t* y) noexcept {
  requantize(sums, n, shift, y);
}

void requantize_int16(const std::int32_t* sums, std::int64_t n, int shift,
                      std::int16_t* y) noexcept {
  requantize(sums, n, shift, y);
}

}  // namespace tandem::ref
