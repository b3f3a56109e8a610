// The error of a group's partial products over all tokens is dᵀ G d, with the difference d of its
// weights and the Gram matrix G of its inputs.
#include "quantize/clip_search.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "quantize/fake_quantize.h"
#include "tensor/half.h"

namespace tandem {
namespace {

constexpr int kSteps = 10;
constexpr double kStep = 1.0 / 20;

// Of every group of columns of x, [groups][g][g].
std::vector<float> gram_of_groups(std::span<const float> x, std::size_t columns, std::size_t g,
                                  ThreadPool& pool) {
  std::vector<float> grams(columns * g);
  pool.parallel_for(static_cast<std::int64_t>(columns / g), 1, [&](Range range) {
    std::vector<double> sums(g * g);
    for (std::int64_t group = range.begin; group < range.end; ++group) {
      std::ranges::fill(sums, 0.0);
      const std::size_t first = static_cast<std::size_t>(group) * g;
      for (std::size_t row = first; row < x.size(); row += columns)
        for (std::size_t a = 0; a < g; ++a) {
          const double factor = x[row + a];
          for (std::size_t b = 0; b < g; ++b) sums[a * g + b] += factor * x[row + b];
        }
      std::ranges::transform(sums, grams.begin() + static_cast<std::ptrdiff_t>(first * g),
                             [](double sum) { return static_cast<float>(sum); });
    }
  });
  return grams;
}

// sums += rows of G times d, kRows rows at once: each sum is loaded and stored once for all of them.
template <std::size_t kRows>
void add_rows(const float* gram, const float* d, std::span<float> sums) {
  for (std::size_t b = 0; b < sums.size(); ++b) {
    float sum = sums[b];
    for (std::size_t row = 0; row < kRows; ++row) sum += gram[row * sums.size() + b] * d[row];
    sums[b] = sum;
  }
}

// dᵀ G d; `sums` is scratch.
double error_of(std::span<const float> d, const float* gram, std::span<float> sums) {
  constexpr std::size_t kRows = 8;
  const std::size_t g = d.size();
  std::ranges::fill(sums, 0.0F);
  std::size_t a = 0;
  for (; a + kRows <= g; a += kRows) add_rows<kRows>(gram + a * g, &d[a], sums);
  for (; a < g; ++a) add_rows<1>(gram + a * g, &d[a], sums);
  double error = 0;
  for (std::size_t b = 0; b < g; ++b) error += double{sums[b]} * d[b];
  return error;
}

class Search {
 public:
  Search(const FakeQuantizer& quantizer, DType dtype)
      : quantizer_(quantizer),
        dtype_(dtype),
        clipped_(static_cast<std::size_t>(quantizer.group())),
        sums_(clipped_.size()),
        codes_(clipped_.size()) {}

  // The best bound of one group.
  float bound(std::span<const float> weights, const float* gram) {
    float largest = 0;
    for (const float w : weights) largest = std::max(largest, std::abs(round_to(dtype_, w)));
    float best = largest;
    double least = std::numeric_limits<double>::infinity();
    for (int step = 0; step < kSteps; ++step) {
      const float bound = round_to(dtype_, largest * static_cast<float>(1 - step * kStep));
      std::ranges::transform(weights, clipped_.begin(),
                             [&](float w) { return std::clamp(w, -bound, bound); });
      quantizer_.quantize_group(clipped_, codes_);
      for (std::size_t i = 0; i < clipped_.size(); ++i) clipped_[i] -= weights[i];
      const double error = error_of(clipped_, gram, sums_);
      if (error >= least) continue;
      least = error;
      best = bound;
    }
    return best;
  }

 private:
  const FakeQuantizer& quantizer_;
  DType dtype_;
  std::vector<float> clipped_;
  std::vector<float> sums_;
  std::vector<std::uint8_t> codes_;
};

}  // namespace

Tensor search_clip(const RowSource& weight, const Scheme& scheme, std::span<const float> x,
                   ThreadPool& pool) {
  const FakeQuantizer quantizer(scheme, weight.columns());
  const auto columns = static_cast<std::size_t>(weight.columns());
  const auto g = static_cast<std::size_t>(quantizer.group());
  const std::vector<float> grams = gram_of_groups(x, columns, g, pool);
  std::vector<float> bounds(static_cast<std::size_t>(weight.rows()) * (columns / g));
  pool.parallel_for(weight.rows(), 1, [&](Range range) {
    Search search(quantizer, scheme.scales);
    visit_rows(weight, range.begin, range.end, [&](std::int64_t row, std::span<float> values) {
      float* out = bounds.data() + static_cast<std::size_t>(row) * (columns / g);
      for (std::size_t at = 0; at < values.size(); at += g)
        *out++ = search.bound(values.subspan(at, g), grams.data() + at % columns * g);
    });
  });
  return Tensor::from_floats(bounds, {weight.rows(), weight.columns() / quantizer.group()});
}

}  // namespace tandem
