// A product is a graph of one Linear; the weight of that Linear is the right side.
#include "quantize/products.h"

#include <algorithm>
#include <functional>

#include "graph/graph.h"
#include "quantize/window_executor.h"

namespace tandem {
namespace {

// Rows of the left side that run at a time.
constexpr std::int64_t kRows = 512;
// Rows of x that one product of a Gram matrix sums over, and columns of the result that it gives.
constexpr std::int64_t kGramDepth = 4096;
constexpr std::int64_t kGramColumns = 1024;

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

// y = x · wᵀ.
Graph product_with(Tensor weight) {
  Graph graph;
  const ValueId x = graph.add_input({.name = "x", .width = weight.dim(1)});
  graph.set_outputs({graph.add(Op::kLinear, "product", -1, {x},
                               LinearAttributes{FloatWeight(std::move(weight)), {}})});
  return graph;
}

// Calls visit(first, count, their rows of the product) for some rows of x at a time.
void visit_product(std::span<const float> x, const Tensor& weight, ThreadPool& pool,
                   const std::function<void(std::int64_t, std::int64_t, const float*)>& visit) {
  const std::int64_t k = weight.dim(1);
  const auto rows = static_cast<std::int64_t>(x.size()) / k;
  const std::int64_t window = std::min(rows, kRows);
  WindowExecutor executor(product_with(weight), window, window, pool);
  for (std::int64_t first = 0; first < rows; first += kRows) {
    const std::int64_t count = std::min(kRows, rows - first);
    const void* const input = x.data() + first * k;
    executor.run(std::span(&input, 1), count);
    visit(first, count, executor.output(0));
  }
}

}  // namespace

std::vector<float> multiply(std::span<const float> x, const Tensor& weight, ThreadPool& pool) {
  const std::int64_t n = weight.dim(0);
  std::vector<float> result(x.size() / index(weight.dim(1)) * index(n));
  visit_product(x, weight, pool, [&](std::int64_t first, std::int64_t count, const float* product) {
    std::copy_n(product, count * n, result.begin() + static_cast<std::ptrdiff_t>(first * n));
  });
  return result;
}

void divide_columns(std::span<float> rows, std::span<const float> divisors, ThreadPool& pool) {
  const std::size_t columns = divisors.size();
  pool.parallel_for(static_cast<std::int64_t>(rows.size() / columns), 1, [&](Range range) {
    for (std::int64_t row = range.begin; row < range.end; ++row)
      for (std::size_t c = 0; c < columns; ++c) rows[index(row) * columns + c] /= divisors[c];
  });
}

GramMatrix::GramMatrix(std::int64_t k, ThreadPool& pool)
    : k_(k), pool_(pool), sum_(index(k) * index(k)) {}

// Of each strip of columns, the rows from the diagonal on.
void GramMatrix::add(std::span<const float> x) {
  const auto rows = static_cast<std::int64_t>(x.size()) / k_;
  for (std::int64_t first = 0; first < rows; first += kGramDepth) {
    const std::int64_t depth = std::min(kGramDepth, rows - first);
    std::vector<float> transposed(index(k_ * depth));
    pool_.parallel_for(k_, 16, [&](Range channels) {
      for (std::int64_t row = 0; row < depth; ++row)
        for (std::int64_t c = channels.begin; c < channels.end; ++c)
          transposed[index(c * depth + row)] = x[index((first + row) * k_ + c)];
    });
    const std::span<const float> all(transposed);
    for (std::int64_t strip = 0; strip < k_; strip += kGramColumns) {
      const std::int64_t columns = std::min(kGramColumns, k_ - strip);
      const Tensor weight = Tensor::from_floats(
          all.subspan(index(strip * depth), index(columns * depth)), {columns, depth});
      visit_product(all.subspan(index(strip * depth)), weight, pool_,
                    [&](std::int64_t at, std::int64_t count, const float* product) {
                      for (std::int64_t row = 0; row < count; ++row) {
                        float* sum = &sum_[index((strip + at + row) * k_ + strip)];
                        for (std::int64_t c = 0; c < columns; ++c)
                          sum[c] += product[row * columns + c];
                      }
                    });
    }
  }
}

void GramMatrix::mirror() {
  for (std::int64_t row = 0; row < k_; ++row)
    for (std::int64_t c = row + 1; c < k_; ++c)
      sum_[index(row * k_ + c)] = sum_[index(c * k_ + row)];
}

std::span<const float> GramMatrix::values() {
  mirror();
  return sum_;
}

std::vector<float> GramMatrix::take() && {
  mirror();
  return std::move(sum_);
}

GroupProducts::GroupProducts(const std::vector<float>& matrices, std::int64_t size,
                             ThreadPool& pool)
    : kernels_(window_kernels()) {
  layout_ = {.kind = PanelKind::kF32, .n = size, .k = size};
  const std::int64_t matrix = size * size;
  const std::int64_t groups = static_cast<std::int64_t>(matrices.size()) / matrix;
  memory_ = Tensor::allocate(DType::kU8, {groups * layout_.bytes()}, &panels_);
  const Tensor values = Tensor::from_floats(matrices, {groups * size, size});
  pool.parallel_for(groups, 1, [&](Range range) {
    for (std::int64_t group = range.begin; group < range.end; ++group) {
      const FloatWeight weight(values.rows(group * size, size));
      pack_panels(weight, layout_, {0, layout_.panels()}, panels_ + group * layout_.bytes());
    }
  });
}

void GroupProducts::multiply(std::int64_t group, std::span<const float> x,
                             std::span<float> y) const {
  const std::int64_t rows = static_cast<std::int64_t>(x.size()) / layout_.k;
  kernels_.linear_float(layout_, panels_ + group * layout_.bytes(), {0, layout_.panels()}, x.data(),
                        layout_.k, rows, {.y = y.data(), .stride = layout_.n});
}

}  // namespace tandem
