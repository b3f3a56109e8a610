// The error of a group's partial products over all tokens is dᵀ G d, with the difference d of its
// weights and the Gram matrix G of its inputs.
#include "quantize/clip_search.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

#include "quantize/fake_quantize.h"
#include "quantize/products.h"
#include "tensor/half.h"

namespace tandem {
namespace {

// Above, a row's error comes from a product of matrices.
constexpr std::size_t kLargestGroup = 128;

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

// dᵀ G d; `sums` is scratch. Without a matrix, dᵀ d.
double error_of(std::span<const float> d, const float* gram, std::span<float> sums) {
  constexpr std::size_t kRows = 8;
  if (gram == nullptr)
    return std::inner_product(d.begin(), d.end(), d.begin(), 0.0, std::plus<>(),
                              [](double a, double b) { return a * b; });
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
  Search(const FakeQuantizer& quantizer, DType dtype, const ClipGrid& grid)
      : quantizer_(quantizer),
        dtype_(dtype),
        grid_(grid),
        clipped_(static_cast<std::size_t>(quantizer.group())),
        sums_(clipped_.size()),
        codes_(clipped_.size()) {}

  // The best bound of one group.
  float bound(std::span<const float> weights, const float* gram) {
    largest_ = 0;
    for (const float w : weights) largest_ = std::max(largest_, std::abs(round_to(dtype_, w)));
    best_ = largest_;
    best_part_ = 1;
    least_ = std::numeric_limits<double>::infinity();
    const double step = 1.0 / grid_.steps;
    for (int i = 0; i < grid_.count; ++i) attempt(1 - i * step, weights, gram);
    const double coarse = best_part_;
    for (int j = 0; grid_.fine > 0 && j <= grid_.fine; ++j) {
      const double part = coarse + (2.0 * j / grid_.fine - 1) * step;
      if (part > 0 && part < 1) attempt(part, weights, gram);
    }
    return best_;
  }

 private:
  void attempt(double part, std::span<const float> weights, const float* gram) {
    const float bound = round_to(dtype_, largest_ * static_cast<float>(part));
    std::ranges::transform(weights, clipped_.begin(),
                           [&](float w) { return std::clamp(w, -bound, bound); });
    quantizer_.quantize_group(clipped_, codes_);
    for (std::size_t i = 0; i < clipped_.size(); ++i) clipped_[i] -= weights[i];
    const double error = error_of(clipped_, gram, sums_);
    if (error >= least_) return;
    least_ = error;
    best_ = bound;
    best_part_ = part;
  }

  const FakeQuantizer& quantizer_;
  DType dtype_;
  const ClipGrid& grid_;
  std::vector<float> clipped_;
  std::vector<float> sums_;
  std::vector<std::uint8_t> codes_;
  // Of the group that is searched: the largest |w|, the best bound so far, which part it is of the
  // largest, and its error.
  float largest_ = 0;
  float best_ = 0;
  double best_part_ = 1;
  double least_ = 0;
};

// The same search for one group that is a whole row: the Gram matrix is that of all columns, and
// the errors of all rows come from one product with it.
class RowSearch {
 public:
  RowSearch(const RowSource& weight, const FakeQuantizer& quantizer, DType dtype,
            std::span<const float> x, ThreadPool& pool)
      : weight_(weight), quantizer_(quantizer), dtype_(dtype), pool_(pool) {
    const std::int64_t k = weight.columns();
    GramMatrix gram(k, pool);
    gram.add(x);
    gram_ = Tensor::from_floats(gram.values(), {k, k});
  }

  Tensor bounds(const ClipGrid& grid) {
    rows_.resize(static_cast<std::size_t>(weight_.rows()));
    const double step = 1.0 / grid.steps;
    for (int i = 0; i < grid.count; ++i) attempt([&](const Row&) { return 1 - i * step; });
    for (Row& row : rows_) row.coarse = row.best_part;
    for (int j = 0; grid.fine > 0 && j <= grid.fine; ++j)
      attempt([&](const Row& row) { return row.coarse + (2.0 * j / grid.fine - 1) * step; });
    std::vector<float> best;
    for (const Row& row : rows_) best.push_back(row.best);
    return Tensor::from_floats(best, {weight_.rows(), 1});
  }

 private:
  struct Row {
    double best_part = 1;
    double coarse = 1;
    double least = std::numeric_limits<double>::infinity();
    float best = 0;
    // Of the last attempt.
    double part = 1;
    float bound = 0;
  };

  // Tries a part of the largest |w| of each row, as long as it is one.
  template <typename PartOf>
  void attempt(PartOf&& part_of) {
    const auto k = static_cast<std::size_t>(weight_.columns());
    std::vector<float> difference(rows_.size() * k);
    pool_.parallel_for(weight_.rows(), 1, [&](Range range) {
      std::vector<std::uint8_t> codes(k);
      visit_rows(weight_, range.begin, range.end, [&](std::int64_t first, std::span<float> values) {
        for (std::size_t at = 0; at < values.size(); at += k) {
          const std::size_t index = static_cast<std::size_t>(first) + at / k;
          const std::span<const float> weights = values.subspan(at, k);
          const std::span<float> d = std::span(difference).subspan(index * k, k);
          float largest = 0;
          for (const float w : weights) largest = std::max(largest, std::abs(round_to(dtype_, w)));
          Row& row = rows_[index];
          row.part = std::clamp(part_of(row), 1e-3, 1.0);
          row.bound = round_to(dtype_, largest * static_cast<float>(row.part));
          const float bound = row.bound;
          std::ranges::transform(weights, d.begin(),
                                 [&](float w) { return std::clamp(w, -bound, bound); });
          quantizer_.quantize_group(d, codes);
          for (std::size_t i = 0; i < k; ++i) d[i] -= weights[i];
        }
      });
    });
    const std::vector<float> product = multiply(difference, gram_, pool_);
    for (std::size_t row = 0; row < rows_.size(); ++row) {
      const auto from = difference.begin() + static_cast<std::ptrdiff_t>(row * k);
      const double error =
          std::inner_product(from, from + static_cast<std::ptrdiff_t>(k),
                             product.begin() + static_cast<std::ptrdiff_t>(row * k), 0.0,
                             std::plus<>(), [](double a, double b) { return a * b; });
      keep_best(rows_[row], error);
    }
  }

  static void keep_best(Row& row, double error) {
    if (error >= row.least) return;
    row.least = error;
    row.best = row.bound;
    row.best_part = row.part;
  }

  const RowSource& weight_;
  const FakeQuantizer& quantizer_;
  DType dtype_;
  ThreadPool& pool_;
  Tensor gram_;
  std::vector<Row> rows_;
};

}  // namespace

Tensor search_clip(const RowSource& weight, const Scheme& scheme, std::span<const float> x,
                   ThreadPool& pool, const ClipGrid& grid) {
  const FakeQuantizer quantizer(scheme, weight.columns());
  const auto columns = static_cast<std::size_t>(weight.columns());
  const auto g = static_cast<std::size_t>(quantizer.group());
  if (!x.empty() && g == columns && g > kLargestGroup)
    return RowSearch(weight, quantizer, scheme.scales, x, pool).bounds(grid);
  std::vector<float> grams;
  if (!x.empty()) grams = gram_of_groups(x, columns, g, pool);
  std::vector<float> bounds(static_cast<std::size_t>(weight.rows()) * (columns / g));
  pool.parallel_for(weight.rows(), 1, [&](Range range) {
    Search search(quantizer, scheme.scales, grid);
    visit_rows(weight, range.begin, range.end, [&](std::int64_t row, std::span<float> values) {
      float* out = bounds.data() + static_cast<std::size_t>(row) * (columns / g);
      for (std::size_t at = 0; at < values.size(); at += g)
        *out++ = search.bound(values.subspan(at, g),
                              grams.empty() ? nullptr : grams.data() + at % columns * g);
    });
  });
  return Tensor::from_floats(bounds, {weight.rows(), weight.columns() / quantizer.group()});
}

}  // namespace tandem
