// Norm, rotary embedding, activation, sums and Hadamard transforms of rows; the norm's sum is in
// double.
#include <cmath>

#include "kernels/ref/ref.h"
#include "kernels/tables.h"

namespace tandem::ref {

namespace {

// (1 + tanh(u)) / 2 is 1 / (1 + e^-2u); this is 2u.
float gelu_exponent(float x) { return kGeluScale * (x + kGeluCubic * x * x * x); }

}  // namespace

void rms_norm(const float* x, const float* weight, float epsilon, std::int64_t n,
              float* y) noexcept {
  double squares = 0;
  for (std::int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * x[i];
  const auto inverse =
      static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(n) + epsilon));
  for (std::int64_t i = 0; i < n; ++i) y[i] = x[i] * inverse * weight[i];
}

void rope(float* x, std::int64_t heads, std::int64_t head_dim, std::int64_t rotary_dim,
          const float* cos, const float* sin) noexcept {
  const std::int64_t half = rotary_dim / 2;
  for (std::int64_t h = 0; h < heads; ++h) {
    float* head = x + h * head_dim;
    for (std::int64_t i = 0; i < half; ++i) {
      const float a = head[i];
      const float b = head[i + half];
      head[i] = a * cos[i] - b * sin[i];
      head[i + half] = b * cos[i] + a * sin[i];
    }
  }
}

void silu(const float* x, std::int64_t n, float* y) noexcept {
  for (std::int64_t i = 0; i < n; ++i) y[i] = x[i] / (1.0F + std::exp(-x[i]));
}

void gelu(const float* x, std::int64_t n, float* y) noexcept {
  for (std::int64_t i = 0; i < n; ++i) y[i] = x[i] / (1.0F + std::exp(-gelu_exponent(x[i])));
}

void softcap(const float* x, float cap, std::int64_t n, float* y) noexcept {
  for (std::int64_t i = 0; i < n; ++i) y[i] = cap * std::tanh(x[i] / cap);
}

void add(const float* a, const float* b, std::int64_t n, float* y) noexcept {
  for (std::int64_t i = 0; i < n; ++i) y[i] = a[i] + b[i];
}

void hadamard(float* x, std::int64_t n) noexcept {
  for (std::int64_t stride = 1; stride < n; stride *= 2)
    for (std::int64_t block = 0; block < n; block += 2 * stride)
      for (std::int64_t i = block; i < block + stride; ++i) {
        const float a = x[i];
        const float b = x[i + stride];
        x[i] = a + b;
        x[i + stride] = a - b;
      }
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(n)));
  for (std::int64_t i = 0; i < n; ++i) x[i] *= scale;
}

void mix(const float* x, const float* factor, std::int64_t m, std::int64_t n, float* y) noexcept {
  for (std::int64_t j = 0; j < m; ++j)
    for (std::int64_t c = 0; c < n; ++c) {
      float sum = 0;
      for (std::int64_t i = 0; i < m; ++i) sum = std::fma(factor[i * m + j], x[i * n + c], sum);
      y[j * n + c] = sum;
    }
}

void mul(const float* a, const float* b, std::int64_t n, float* y) noexcept {
  for (std::int64_t i = 0; i < n; ++i) y[i] = a[i] * b[i];
}

}  // namespace tandem::ref
