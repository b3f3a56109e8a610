// Activations to int8: one static scale, or one scale per row and group found from the values.
#include <cfloat>
#include <cmath>

#include "kernels/ref/ref.h"

namespace tandem::ref {

namespace {

// Not a number takes the lower bound, as it does in the vector kernels.
std::int8_t clamp_round(float value, float low) {
  value = value > low ? value : low;
  value = value < 127.0F ? value : 127.0F;
  return static_cast<std::int8_t>(std::nearbyint(value));
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

void quantize_groups(const float* x, std::int64_t k, std::int64_t group, std::int8_t* codes,
                     float* scales, std::int32_t* sums) noexcept {
  for (std::int64_t g = 0; g < k / group; ++g) {
    const float* values = x + g * group;
    float largest = 0;
    for (std::int64_t i = 0; i < group; ++i) {
      const float magnitude = std::fabs(values[i]);
      largest = magnitude > largest ? magnitude : largest;
    }
    // A scale below the normal floats has no finite inverse: such a group counts as zeros.
    const float scale = largest / 127.0F;
    const bool zero = scale < FLT_MIN;
    const float inverse = zero ? 0.0F : 1.0F / scale;
    std::int32_t total = 0;
    for (std::int64_t i = 0; i < group; ++i) {
      const std::int8_t code = zero ? std::int8_t{0} : clamp_round(values[i] * inverse, -127.0F);
      codes[g * group + i] = code;
      total += code;
    }
    scales[g] = zero ? 0.0F : scale;
    sums[g] = total;
  }
}

}  // namespace tandem::ref
