// Making, checking and applying rotations.
#include "tensor/rotation.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <numbers>
#include <random>
#include <utility>

#include "base/error.h"
#include "tensor/hadamard_factor.h"

namespace tandem {
namespace {

// Blocks of more rows are computed once and kept: a read of a few of their rows needs all of them.
constexpr std::int64_t kLargeBlock = 256;
// How far RᵀR v may be from v, for v of ±1.
constexpr double kOrthogonal = 1e-3;
// Columns of a block that are transformed together, so that they stay in the cache.
constexpr std::int64_t kStrip = 128;

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

void require_size(std::int64_t size) {
  if (size < 1)
    fail(ErrorCode::kInvalidArgument, "[rotation] expected a size of at least 1, got {}", size);
}

// Uniform in (0, 1].
double uniform(std::mt19937_64& random) {
  return static_cast<double>((random() >> 11) + 1) * 0x1p-53;
}

// Orthonormal rows, uniformly distributed: Gram-Schmidt, twice for accuracy, of normally distributed
// numbers (Box and Muller).
Tensor random_orthogonal(std::int64_t size, std::mt19937_64& random) {
  std::vector<double> rows(index(size * size));
  for (double& value : rows) {
    const double radius = std::sqrt(-2 * std::log(uniform(random)));
    value = radius * std::cos(2 * std::numbers::pi * uniform(random));
  }
  const auto row = [&](std::int64_t i) {
    return std::span(rows).subspan(index(i * size), index(size));
  };
  const auto product = [](std::span<const double> a, std::span<const double> b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  };
  for (std::int64_t i = 0; i < size; ++i) {
    for (int pass = 0; pass < 2; ++pass)
      for (std::int64_t j = 0; j < i; ++j) {
        const double along = product(row(i), row(j));
        for (std::int64_t c = 0; c < size; ++c) row(i)[index(c)] -= along * row(j)[index(c)];
      }
    const double length = std::sqrt(product(row(i), row(i)));
    for (double& value : row(i)) value /= length;
  }
  const std::vector<float> values(rows.begin(), rows.end());
  return Tensor::from_floats(values, {size, size});
}

// x [n, width] := H · x for each of x.size() / (n width) blocks.
void hadamard(std::span<double> x, std::int64_t n, std::int64_t width) {
  const auto total = static_cast<std::int64_t>(x.size());
  for (std::int64_t stride = width; stride < n * width; stride *= 2)
    for (std::int64_t block = 0; block < total; block += 2 * stride) {
      double* a = x.data() + block;
      double* b = a + stride;
      for (std::int64_t i = 0; i < stride; ++i) {
        const double sum = a[i] + b[i];
        b[i] = a[i] - b[i];
        a[i] = sum;
      }
    }
  const double scale = 1 / std::sqrt(static_cast<double>(n));
  for (double& value : x) value *= scale;
}

class RotatedColumns : public RowSource {
 public:
  RotatedColumns(Rows source, const Rotation& rotation)
      : RowSource(source->rows(), source->columns(), DType::kF32),
        source_(std::move(source)),
        rotation_(rotation) {}
  void release() const noexcept override { source_->release(); }

 private:
  void read_rows(std::int64_t first, std::span<float> out) const override {
    source_->read(first, out);
    const std::size_t d = index(rotation_.size());
    std::vector<double> values(d);
    for (std::size_t at = 0; at < out.size(); at += d) {
      std::copy_n(out.begin() + static_cast<std::ptrdiff_t>(at), d, values.begin());
      rotation_.apply(values, 1);
      std::ranges::transform(values, out.begin() + static_cast<std::ptrdiff_t>(at),
                             [](double value) { return static_cast<float>(value); });
    }
  }

  Rows source_;
  Rotation rotation_;
};

class RotatedRows : public RowSource {
 public:
  RotatedRows(Rows source, const Rotation& rotation)
      : RowSource(source->rows(), source->columns(), DType::kF32),
        source_(std::move(source)),
        rotation_(rotation) {}
  void release() const noexcept override {
    source_->release();
    const std::lock_guard lock(mutex_);
    blocks_.clear();
  }

 private:
  using Block = std::shared_ptr<const std::vector<float>>;

  void read_rows(std::int64_t first, std::span<float> out) const override {
    const std::int64_t d = rotation_.size();
    const std::int64_t end = first + static_cast<std::int64_t>(out.size()) / columns();
    for (std::int64_t row = first; row < end;) {
      const std::int64_t count = std::min(end - row, d - row % d);
      const Block values = block(row / d);
      std::copy_n(values->begin() + row % d * columns(), count * columns(),
                  out.begin() + (row - first) * columns());
      row += count;
    }
  }

  Block block(std::int64_t number) const {
    if (rotation_.size() <= kLargeBlock) return compute(number);
    const std::lock_guard lock(mutex_);
    Block& kept = blocks_[number];
    if (kept == nullptr) kept = compute(number);
    return kept;
  }

  Block compute(std::int64_t number) const {
    const std::int64_t d = rotation_.size();
    std::vector<float> values(index(d * columns()));
    source_->read(number * d, values);
    std::vector<double> strip;
    for (std::int64_t begin = 0; begin < columns(); begin += kStrip) {
      const std::int64_t width = std::min(kStrip, columns() - begin);
      strip.resize(index(d * width));
      for (std::int64_t i = 0; i < d; ++i)
        std::copy_n(values.begin() + i * columns() + begin, width, strip.begin() + i * width);
      rotation_.apply(strip, width);
      for (std::int64_t i = 0; i < d; ++i)
        std::transform(strip.begin() + i * width, strip.begin() + (i + 1) * width,
                       values.begin() + i * columns() + begin,
                       [](double value) { return static_cast<float>(value); });
    }
    return std::make_shared<const std::vector<float>>(std::move(values));
  }

  Rows source_;
  Rotation rotation_;
  mutable std::mutex mutex_;
  mutable std::map<std::int64_t, Block> blocks_;
};

void require_fit(const Rotation& rotation, std::int64_t length, const char* place) {
  if (length % rotation.size() != 0)
    fail(ErrorCode::kInvalidArgument, "[rotation] {}: {} are not a multiple of the rotation's {}",
         place, length, rotation.size());
}

}  // namespace

Rotation::Rotation(Tensor matrix) : factor_(std::move(matrix)) {
  const bool square = !factor_.empty() && factor_.dtype() == DType::kF32 &&
                      factor_.shape().size() == 2 && factor_.dim(0) == factor_.dim(1) &&
                      factor_.dim(0) > 0;
  if (!square)
    fail(ErrorCode::kInvalidArgument, "[rotation] expected a matrix F32 [d, d], got {} {}",
         to_string(factor_.dtype()), to_string(factor_.shape()));
  // RᵀR v = v for a few vectors of ±1: any error in a column of RᵀR shows in full.
  const std::int64_t d = factor_.dim(0);
  const float* r = factor_.as<float>().data();
  std::mt19937_64 random(1);
  for (int vector = 0; vector < 4; ++vector) {
    std::vector<double> v(index(d)), back(index(d));
    for (double& value : v) value = random() >> 63 == 0 ? 1 : -1;
    for (std::int64_t i = 0; i < d; ++i) {
      double sum = 0;
      for (std::int64_t j = 0; j < d; ++j) sum += r[i * d + j] * v[index(j)];
      for (std::int64_t j = 0; j < d; ++j) back[index(j)] += r[i * d + j] * sum;
    }
    for (std::int64_t j = 0; j < d; ++j)
      if (!(std::abs(back[index(j)] - v[index(j)]) <= kOrthogonal))
        fail(
            ErrorCode::kInvalidArgument,
            "[rotation] expected an orthogonal matrix: the product of column {} with the others is "
            "off by {:.3g}",
            j, std::abs(back[index(j)] - v[index(j)]));
  }
}

Rotation::Rotation(std::vector<double> signs, Tensor factor, std::int64_t order)
    : signs_(std::move(signs)), factor_(std::move(factor)), order_(order) {}

Rotation Rotation::random(std::int64_t size, std::uint64_t seed) {
  require_size(size);
  std::mt19937_64 random(seed);
  return {{}, random_orthogonal(size, random), 1};
}

Rotation Rotation::hadamard(std::int64_t size) {
  Tensor factor = hadamard_factor(size);
  const std::int64_t order = size / factor.dim(0);
  return {{}, std::move(factor), order};
}

Rotation Rotation::random_hadamard(std::int64_t size, std::uint64_t seed) {
  Rotation rotation = hadamard(size);
  std::mt19937_64 random(seed);
  std::vector<double> signs(index(size));
  for (double& sign : signs) sign = random() >> 63 == 0 ? 1 : -1;
  if (rotation.is_fast()) return {std::move(signs), rotation.factor_, rotation.order_};
  std::vector<float> rows = rotation.factor_.to_floats();
  for (std::size_t i = 0; i < rows.size(); ++i)
    rows[i] *= static_cast<float>(signs[i / signs.size()]);
  return {{}, Tensor::from_floats(rows, {size, size}), 1};
}

Tensor Rotation::matrix() const {
  if (!is_fast()) return factor_;
  const std::int64_t d = size();
  std::vector<double> values(index(d * d));
  for (std::int64_t i = 0; i < d; ++i) values[index(i * d + i)] = 1;
  // Rᵀ · I, transposed.
  apply(values, d);
  std::vector<float> matrix(values.size());
  for (std::int64_t i = 0; i < d; ++i)
    for (std::int64_t j = 0; j < d; ++j)
      matrix[index(j * d + i)] = static_cast<float>(values[index(i * d + j)]);
  return Tensor::from_floats(matrix, {d, d});
}

void Rotation::apply(std::span<double> values, std::int64_t width) const {
  if (values.size() != index(size() * width))
    fail(ErrorCode::kInternal, "[rotation] expected {} values, got {}", size() * width,
         values.size());
  for (std::size_t i = 0; i < signs_.size(); ++i)
    if (signs_[i] < 0)
      for (double& value : values.subspan(i * index(width), index(width))) value = -value;
  if (order_ > 1) tandem::hadamard(values, order_, width);
  const std::int64_t m = factor_.dim(0);
  if (m == 1 && factor_.as<float>()[0] == 1.0F) return;
  const std::int64_t inner = order_ * width;
  std::vector<double> result(values.size());
  for (std::int64_t i = 0; i < m; ++i) {
    const float* row = factor_.as<float>().data() + i * m;
    const double* from = values.data() + i * inner;
    for (std::int64_t j = 0; j < m; ++j) {
      const double factor = row[j];
      double* to = result.data() + j * inner;
      for (std::int64_t c = 0; c < inner; ++c) to[c] += factor * from[c];
    }
  }
  std::ranges::copy(result, values.begin());
}

Rows rotate_columns(const Rows& source, const Rotation& rotation) {
  if (!rotation.is_fast()) return rotate_columns(source, rotation.factor());
  if (source == nullptr)
    fail(ErrorCode::kInvalidArgument, "[rotation] expected a matrix, got none");
  require_fit(rotation, source->columns(), "columns");
  return std::make_shared<RotatedColumns>(source, rotation);
}

Rows rotate_rows(const Rows& source, const Rotation& rotation) {
  if (!rotation.is_fast()) return rotate_rows(source, rotation.factor());
  if (source == nullptr)
    fail(ErrorCode::kInvalidArgument, "[rotation] expected a matrix, got none");
  require_fit(rotation, source->rows(), "rows");
  return std::make_shared<RotatedRows>(source, rotation);
}

Tensor rotate_vector(const Tensor& vector, const Rotation& rotation) {
  require_fit(rotation, vector.elements(), "elements");
  const std::vector<float> floats = vector.to_floats();
  std::vector<double> values(floats.begin(), floats.end());
  const std::size_t d = index(rotation.size());
  for (std::size_t at = 0; at < values.size(); at += d)
    rotation.apply(std::span(values).subspan(at, d), 1);
  return Tensor::from_floats(std::vector<float>(values.begin(), values.end()), vector.shape());
}

}  // namespace tandem
