// Everything is a product of matrices x · yᵀ.
#include "quantize/cayley.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "quantize/products.h"

namespace tandem {
namespace {

constexpr int kIterations = 5;

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

std::vector<float> transposed(const std::vector<float>& matrix, std::int64_t size) {
  std::vector<float> result(matrix.size());
  for (std::int64_t r = 0; r < size; ++r)
    for (std::int64_t c = 0; c < size; ++c)
      result[index(c * size + r)] = matrix[index(r * size + c)];
  return result;
}

}  // namespace

std::vector<float> cayley_step(const std::vector<float>& rotation,
                               const std::vector<float>& gradient, std::int64_t size, double rate,
                               ThreadPool& pool) {
  const auto as_weight = [&](const std::vector<float>& matrix) {
    return Tensor::from_floats(matrix, {size, size});
  };
  std::vector<float> skew =
      multiply(transposed(rotation, size), as_weight(transposed(gradient, size)), pool);
  for (std::int64_t r = 0; r < size; ++r)
    for (std::int64_t c = 0; c <= r; ++c) {
      float& below = skew[index(r * size + c)];
      float& above = skew[index(c * size + r)];
      below = (below - above) / 2;
      above = -below;
    }
  double norm = 0;
  // Of a row, which has the columns' sums.
  for (std::int64_t r = 0; r < size; ++r) {
    double sum = 0;
    for (std::int64_t c = 0; c < size; ++c) sum += std::abs(skew[index(r * size + c)]);
    norm = std::max(norm, sum);
  }
  if (!(norm > 0)) return rotation;
  const auto half = static_cast<float>(rate / norm / 2);
  const Tensor turn = as_weight(skew);
  std::vector<float> turned = rotation;
  for (int i = 0; i < kIterations; ++i) {
    std::vector<float> sum(rotation.size());
    std::ranges::transform(rotation, turned, sum.begin(), std::plus<>());
    // (R + R') Wᵀ = -(R + R') W.
    turned = multiply(sum, turn, pool);
    std::ranges::transform(rotation, turned, turned.begin(),
                           [&](float from, float by) { return from + half * by; });
  }
  // R (3 I - RᵀR) / 2.
  const std::vector<float> flipped = transposed(turned, size);
  const std::vector<float> gram = multiply(flipped, as_weight(flipped), pool);
  const std::vector<float> product = multiply(turned, as_weight(gram), pool);
  std::ranges::transform(turned, product, turned.begin(),
                         [](float a, float b) { return 1.5F * a - 0.5F * b; });
  return turned;
}

}  // namespace tandem
