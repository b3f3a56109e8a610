// The error of a group's partial products over all tokens is dᵀ G d, with the difference d of its
// weights and the Gram matrix G of its inputs.
#include "quantize/clip_search.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "quantize/fake_quantize.h"
#include "quantize/products.h"
#include "tensor/half.h"

namespace tandem {
namespace {

// Of every group of columns of x, [groups][g][g].
std::vector<float> gram_of_groups(std::span<const float> x, std::size_t columns, std::size_t g,
                                  ThreadPool& pool) {
  if (g == columns) {
    GramMatrix gram(static_cast<std::int64_t>(g), pool);
    gram.add(x);
    return std::move(gram).take();
  }
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

// Rows that are searched at a time: enough to multiply with, few enough to stay in the cache.
constexpr std::int64_t kRows = 64;

// Of one group of a row: the largest |w|, the best bound so far, which part it is of the largest,
// and its error.
struct Best {
  float largest = 0;
  float bound = 0;
  double part = 1;
  double error = std::numeric_limits<double>::infinity();
};

// Searches the bounds of a few rows on one thread.
class Search {
 public:
  // Without `products` the error is that of the weights.
  Search(const FakeQuantizer& quantizer, DType dtype, const ClipGrid& grid,
         const GroupProducts* products)
      : quantizer_(quantizer),
        dtype_(dtype),
        grid_(grid),
        products_(products),
        g_(static_cast<std::size_t>(quantizer.group())),
        codes_(g_) {}

  // Of rows with `columns` weights each; `bounds` has one for each of their groups.
  void run(std::span<const float> weights, std::size_t columns, float* bounds) {
    const std::size_t rows = weights.size() / columns, groups = columns / g_;
    for (std::size_t group = 0; group < groups; ++group) {
      weights_.clear();
      for (std::size_t row = 0; row < rows; ++row) {
        const auto part = weights.subspan(row * columns + group * g_, g_);
        weights_.insert(weights_.end(), part.begin(), part.end());
      }
      search(static_cast<std::int64_t>(group), rows);
      for (std::size_t row = 0; row < rows; ++row) bounds[row * groups + group] = best_[row].bound;
    }
  }

 private:
  void search(std::int64_t group, std::size_t rows) {
    best_.assign(rows, {});
    for (std::size_t row = 0; row < rows; ++row) {
      Best& best = best_[row];
      for (const float w : std::span(weights_).subspan(row * g_, g_))
        best.largest = std::max(best.largest, std::abs(round_to(dtype_, w)));
      best.bound = best.largest;
    }
    const double step = 1.0 / grid_.steps;
    parts_.resize(rows);
    for (int i = 0; i < grid_.count; ++i) {
      std::ranges::fill(parts_, 1 - i * step);
      attempt(group);
    }
    std::vector<double> coarse;
    for (const Best& best : best_) coarse.push_back(best.part);
    for (int j = 0; grid_.fine > 0 && j <= grid_.fine; ++j) {
      for (std::size_t row = 0; row < rows; ++row)
        parts_[row] = std::clamp(coarse[row] + (2.0 * j / grid_.fine - 1) * step, 1e-3, 1.0);
      attempt(group);
    }
  }

  // Tries a part of the largest |w| of each row.
  void attempt(std::int64_t group) {
    difference_ = weights_;
    for (std::size_t row = 0; row < best_.size(); ++row) {
      const std::span<float> d = std::span(difference_).subspan(row * g_, g_);
      const float bound = bound_of(row);
      for (float& w : d) w = std::clamp(w, -bound, bound);
      quantizer_.quantize_group(d, codes_);
      for (std::size_t i = 0; i < g_; ++i) d[i] -= weights_[row * g_ + i];
    }
    if (products_ == nullptr) {
      product_ = difference_;
    } else {
      product_.resize(difference_.size());
      products_->multiply(group, difference_, product_);
    }
    for (std::size_t row = 0; row < best_.size(); ++row) {
      double error = 0;
      for (std::size_t i = row * g_; i < (row + 1) * g_; ++i)
        error += double{product_[i]} * difference_[i];
      Best& best = best_[row];
      if (error >= best.error) continue;
      best = {best.largest, bound_of(row), parts_[row], error};
    }
  }

  float bound_of(std::size_t row) const {
    return round_to(dtype_, best_[row].largest * static_cast<float>(parts_[row]));
  }

  const FakeQuantizer& quantizer_;
  DType dtype_;
  const ClipGrid& grid_;
  const GroupProducts* products_;
  std::size_t g_;
  std::vector<std::uint8_t> codes_;
  // Of the group that is searched, [rows, g].
  std::vector<float> weights_, difference_, product_;
  // By row.
  std::vector<Best> best_;
  std::vector<double> parts_;
};

}  // namespace

Tensor search_clip(const RowSource& weight, const Scheme& scheme, std::span<const float> x,
                   ThreadPool& pool, const ClipGrid& grid) {
  const FakeQuantizer quantizer(scheme, weight.columns());
  const auto columns = static_cast<std::size_t>(weight.columns());
  const auto g = static_cast<std::size_t>(quantizer.group());
  std::optional<GroupProducts> products;
  if (!x.empty()) products.emplace(gram_of_groups(x, columns, g, pool), quantizer.group(), pool);
  std::vector<float> bounds(static_cast<std::size_t>(weight.rows()) * (columns / g));
  pool.parallel_for(weight.rows(), kRows, [&](Range range) {
    Search search(quantizer, scheme.scales, grid, products ? &*products : nullptr);
    std::vector<float> values;
    for (std::int64_t row = range.begin; row < range.end; row += kRows) {
      const std::int64_t count = std::min(kRows, range.end - row);
      values.resize(static_cast<std::size_t>(count) * columns);
      weight.read(row, values);
      search.run(values, columns, bounds.data() + static_cast<std::size_t>(row) * (columns / g));
    }
  });
  return Tensor::from_floats(bounds, {weight.rows(), weight.columns() / quantizer.group()});
}

}  // namespace tandem
