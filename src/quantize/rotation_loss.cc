// Errors and their gradients, group by group. Gradients are sparse, so that they are added up value by
// value.
#include "quantize/rotation_loss.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "quantize/products.h"

namespace tandem {
namespace {

// Bounds of one scale for all, as parts of the largest |z|: 1, 31/32, … 7/32.
constexpr int kBounds = 25;
constexpr double kBoundStep = 1.0 / 32;

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

double magnitude(float z) { return std::abs(static_cast<double>(z)); }

double tensor_scale(std::span<const float> z, const Rounding& rounding, std::span<float> gradient) {
  const auto largest = std::ranges::max_element(z, {}, magnitude);
  const double most = magnitude(*largest);
  const int bounds = rounding.scales == Rounding::Scales::kTensorMax ? 1 : kBounds;
  // What some bound clips.
  std::vector<double> beyond_least;
  for (const float value : z)
    if (magnitude(value) > most * (1 - (bounds - 1) * kBoundStep))
      beyond_least.push_back(magnitude(value));
  double part = 1, least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < bounds; ++i) {
    const double bound = most * (1 - i * kBoundStep);
    const double step = bound / rounding.steps;
    double error = static_cast<double>(z.size()) * step * step / 12;
    for (const double value : beyond_least) {
      const double beyond = std::max(value - bound, 0.0);
      error += beyond * beyond;
    }
    if (error >= least) continue;
    least = error;
    part = 1 - i * kBoundStep;
  }
  const double bound = most * part;
  // By the bound, which moves with the largest |z|.
  double by_bound = static_cast<double>(z.size()) * bound / (6 * rounding.steps * rounding.steps);
  for (std::size_t i = 0; i < z.size(); ++i) {
    const double beyond = magnitude(z[i]) - bound;
    if (!(beyond > 0)) continue;
    gradient[i] = static_cast<float>(std::copysign(2 * beyond, z[i]));
    by_bound -= 2 * beyond;
  }
  gradient[index(largest - z.begin())] +=
      static_cast<float>(std::copysign(by_bound * part, *largest));
  return least;
}

double group_scale(std::span<const float> z, const Rounding& rounding, std::span<float> gradient) {
  const double weight = static_cast<double>(z.size()) / (12 * rounding.steps * rounding.steps);
  if (rounding.scales == Rounding::Scales::kGroups) {
    const auto largest = std::ranges::max_element(z, {}, magnitude);
    gradient[index(largest - z.begin())] = static_cast<float>(2 * weight * *largest);
    return weight * *largest * *largest;
  }
  // A range holds 0.
  const auto [low, high] = std::ranges::minmax_element(z);
  const double range = std::max(0.0F, *high) - static_cast<double>(std::min(0.0F, *low));
  if (*high > 0) gradient[index(high - z.begin())] += static_cast<float>(2 * weight * range);
  if (*low < 0) gradient[index(low - z.begin())] -= static_cast<float>(2 * weight * range);
  return weight * range * range;
}

// [columns, rows].
std::vector<float> transposed(const std::vector<float>& matrix, std::int64_t rows,
                              std::int64_t columns) {
  std::vector<float> result(matrix.size());
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c)
      result[index(c * rows + r)] = matrix[index(r * columns + c)];
  return result;
}

}  // namespace

double rounding_error(std::span<const float> z, std::int64_t width, const Rounding& rounding,
                      std::span<float> gradient) {
  std::ranges::fill(gradient, 0.0F);
  if (rounding.scales == Rounding::Scales::kTensor ||
      rounding.scales == Rounding::Scales::kTensorMax)
    return tensor_scale(z, rounding, gradient);
  double sum = 0;
  for (std::size_t row = 0; row < z.size(); row += index(width))
    for (std::int64_t c = 0; c < width; c += rounding.group) {
      const std::size_t at = row + index(c);
      const std::size_t columns = index(std::min(rounding.group, width - c));
      sum += group_scale(z.subspan(at, columns), rounding, gradient.subspan(at, columns));
    }
  return sum;
}

void RotationLoss::add(std::vector<float> rows, std::int64_t width, const Rounding& rounding) {
  double energy = 0;
  for (const float value : rows) energy += static_cast<double>(value) * value;
  if (energy > 0) terms_.push_back({std::move(rows), width, rounding, energy});
}

double RotationLoss::at(const std::vector<float>& rotation, std::vector<float>& gradient) const {
  const Tensor turn = Tensor::from_floats(transposed(rotation, size_, size_), {size_, size_});
  // Transposed, so that a value's share is a row.
  std::vector<float> sum(rotation.size());
  std::vector<float> by_value;
  double loss = 0;
  for (const Term& term : terms_) {
    const std::vector<float> z = multiply(term.rows, turn, pool_);
    by_value.resize(z.size());
    loss += rounding_error(z, term.width, term.rounding, by_value) / term.energy;
    const auto weight = static_cast<float>(1 / term.energy);
    pool_.parallel_for(size_, 1, [&](Range columns) {
      for (std::size_t row = 0; row < z.size(); row += index(size_))
        for (std::int64_t c = columns.begin; c < columns.end; ++c) {
          const float share = by_value[row + index(c)] * weight;
          if (share == 0) continue;
          float* to = &sum[index(c * size_)];
          const float* from = &term.rows[row];
          for (std::int64_t i = 0; i < size_; ++i) to[i] += share * from[i];
        }
    });
  }
  gradient = transposed(sum, size_, size_);
  return loss;
}

}  // namespace tandem
