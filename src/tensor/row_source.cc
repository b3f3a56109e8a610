// Rows that are stored, gathered, scaled and rotated.
#include "tensor/row_source.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "tensor/half.h"

namespace tandem {
namespace {

// Rows that a rotation computes at a time, and the rows of its source that it buffers.
constexpr std::int64_t kRowsAtOnce = 64;
constexpr std::int64_t kSourceRowsAtOnce = 32;
// Columns whose sums stay in the L1 cache while source rows are added to them: 4 KiB.
constexpr std::int64_t kColumnsAtOnce = 512;

template <typename T>
std::span<T> part(std::span<T> values, std::int64_t first, std::int64_t count) {
  return values.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
}

const RowSource& require(const Rows& source) {
  if (source == nullptr) fail(ErrorCode::kInvalidArgument, "[rows] expected a matrix, got none");
  return *source;
}

void require_rows(const RowSource& source, std::int64_t first, std::int64_t count) {
  if (first < 0 || count < 0 || first > source.rows() || count > source.rows() - first)
    fail(ErrorCode::kInvalidArgument,
         "[rows] {} rows from {} on: a matrix [{}, {}] does not have them", count, first,
         source.rows(), source.columns());
}

class StoredRows : public RowSource {
 public:
  StoredRows(Tensor values, DType dtype)
      : RowSource(values.dim(0), values.dim(1), dtype), values_(std::move(values)) {}
  const Tensor* stored() const noexcept override {
    return values_.dtype() == dtype() ? &values_ : nullptr;
  }
  void release() const noexcept override { values_.release(); }

 private:
  void read_rows(std::int64_t first, std::span<float> out) const override {
    values_.copy_floats(first * columns(), out);
  }

  Tensor values_;
};

// Rows that are computed from those of another matrix.
class DerivedRows : public RowSource {
 public:
  void release() const noexcept override { source_->release(); }

 protected:
  DerivedRows(Rows source, std::int64_t rows, DType dtype)
      : RowSource(rows, source->columns(), dtype), source_(std::move(source)) {}

  const Rows source_;
};

class SlicedRows : public DerivedRows {
 public:
  SlicedRows(const Rows& source, std::int64_t first, std::int64_t count)
      : DerivedRows(source, count, source->dtype()), first_(first) {}

 private:
  void read_rows(std::int64_t first, std::span<float> out) const override {
    source_->read(first_ + first, out);
  }

  std::int64_t first_;
};

class GatheredRows : public DerivedRows {
 public:
  GatheredRows(const Rows& source, std::vector<std::int64_t> indices)
      : DerivedRows(source, static_cast<std::int64_t>(indices.size()), source->dtype()),
        indices_(std::move(indices)) {}

 private:
  // Rows that are consecutive in the source are read together.
  void read_rows(std::int64_t first, std::span<float> out) const override {
    const auto count = static_cast<std::int64_t>(out.size()) / columns();
    const auto indices = part(std::span(indices_), first, count);
    for (std::size_t begin = 0; begin < indices.size();) {
      std::size_t end = begin + 1;
      while (end < indices.size() && indices[end] == indices[end - 1] + 1) ++end;
      const auto columns = static_cast<std::size_t>(this->columns());
      source_->read(indices[begin], out.subspan(begin * columns, (end - begin) * columns));
      begin = end;
    }
  }

  std::vector<std::int64_t> indices_;
};

class JoinedRows : public RowSource {
 public:
  JoinedRows(std::vector<Rows> parts, std::int64_t rows, DType dtype)
      : RowSource(rows, parts.front()->columns(), dtype), parts_(std::move(parts)) {}
  void release() const noexcept override {
    for (const Rows& part : parts_) part->release();
  }

 private:
  void read_rows(std::int64_t first, std::span<float> out) const override {
    for (const Rows& part : parts_) {
      const std::int64_t wanted = static_cast<std::int64_t>(out.size()) / columns();
      const std::int64_t count = std::min(wanted, part->rows() - first);
      if (count > 0) {
        const auto size = static_cast<std::size_t>(count * columns());
        part->read(first, out.first(size));
        out = out.subspan(size);
      }
      first = std::max<std::int64_t>(0, first - part->rows());
    }
  }

  std::vector<Rows> parts_;
};

enum class Scaling { kRows, kColumns, kDivideRows };

class ScaledRows : public DerivedRows {
 public:
  ScaledRows(const Rows& source, std::vector<float> factors, Scaling scaling)
      : DerivedRows(source, source->rows(), DType::kF32),
        factors_(std::move(factors)),
        scaling_(scaling) {}

 private:
  void read_rows(std::int64_t first, std::span<float> out) const override {
    source_->read(first, out);
    const auto width = static_cast<std::size_t>(columns());
    for (std::size_t row = 0; row * width < out.size(); ++row) {
      const std::span<float> values = out.subspan(row * width, width);
      if (scaling_ == Scaling::kColumns) {
        for (std::size_t c = 0; c < width; ++c) values[c] *= factors_[c];
        continue;
      }
      const float factor = factors_[static_cast<std::size_t>(first) + row];
      for (float& value : values)
        value = scaling_ == Scaling::kRows ? value * factor : value / factor;
    }
  }

  std::vector<float> factors_;
  Scaling scaling_;
};

class ClampedRows : public DerivedRows {
 public:
  ClampedRows(const Rows& source, Tensor bounds)
      : DerivedRows(source, source->rows(), DType::kF32), bounds_(std::move(bounds)) {}

 private:
  void read_rows(std::int64_t first, std::span<float> out) const override {
    source_->read(first, out);
    const auto group = static_cast<std::size_t>(columns() / bounds_.dim(1));
    const float* bound = bounds_.as<float>().data() + first * bounds_.dim(1);
    for (std::size_t at = 0; at < out.size(); at += group, ++bound)
      for (float& value : out.subspan(at, group)) value = std::clamp(value, -*bound, *bound);
  }

  Tensor bounds_;
};

class RoundedRows : public DerivedRows {
 public:
  RoundedRows(const Rows& source, DType dtype) : DerivedRows(source, source->rows(), dtype) {}

 private:
  void read_rows(std::int64_t first, std::span<float> out) const override {
    source_->read(first, out);
    round_all(dtype(), out);
  }
};

// One operand of a matrix product: element (i, j) is at data[i * row + j * column].
struct Strided {
  const float* data;
  std::int64_t row;
  std::int64_t column;
};

// sums [m][width] += a [m, depth] · b [depth][width], rows of b `b_stride` apart; every sum is
// accumulated in the order of depth.
void add_product(const Strided& a, std::int64_t m, std::int64_t depth, const float* b,
                 std::int64_t b_stride, std::int64_t width, double* sums) {
  for (std::int64_t begin = 0; begin < width; begin += kColumnsAtOnce) {
    const std::int64_t end = std::min(begin + kColumnsAtOnce, width);
    for (std::int64_t r = 0; r < m; ++r)
      for (std::int64_t i = 0; i < depth; ++i) {
        const double factor = a.data[r * a.row + i * a.column];
        const float* from = b + i * b_stride;
        double* to = sums + r * width;
        for (std::int64_t c = begin; c < end; ++c) to[c] += factor * from[c];
      }
  }
}

class RotatedColumns : public DerivedRows {
 public:
  RotatedColumns(const Rows& source, Tensor rotation)
      : DerivedRows(source, source->rows(), DType::kF32), rotation_(std::move(rotation)) {}

 private:
  void read_rows(std::int64_t first, std::span<float> out) const override {
    const std::int64_t d = rotation_.dim(0);
    const std::int64_t width = columns();
    const auto total = static_cast<std::int64_t>(out.size()) / width;
    std::vector<float> values(static_cast<std::size_t>(std::min(total, kRowsAtOnce) * width));
    std::vector<double> sums(static_cast<std::size_t>(std::min(total, kRowsAtOnce) * d));
    for (std::int64_t begin = 0; begin < total; begin += kRowsAtOnce) {
      const std::int64_t rows = std::min(kRowsAtOnce, total - begin);
      source_->read(first + begin, part(std::span(values), 0, rows * width));
      for (std::int64_t block = 0; block < width; block += d) {
        std::ranges::fill(sums, 0.0);
        add_product({values.data() + block, width, 1}, rows, d, rotation_.as<float>().data(), d, d,
                    sums.data());
        for (std::int64_t r = 0; r < rows; ++r)
          std::ranges::transform(part(std::span(sums), r * d, d),
                                 part(out, (begin + r) * width + block, d).begin(),
                                 [](double sum) { return static_cast<float>(sum); });
      }
    }
  }

  Tensor rotation_;
};

class RotatedRows : public DerivedRows {
 public:
  RotatedRows(const Rows& source, Tensor rotation)
      : DerivedRows(source, source->rows(), DType::kF32), rotation_(std::move(rotation)) {}

 private:
  void read_rows(std::int64_t first, std::span<float> out) const override {
    const std::int64_t d = rotation_.dim(0);
    const std::int64_t end = first + static_cast<std::int64_t>(out.size()) / columns();
    for (std::int64_t row = first; row < end;) {
      // Up to the end of the block that contains the row.
      const std::int64_t count = std::min({kRowsAtOnce, end - row, d - row % d});
      rotate(row, count, part(out, (row - first) * columns(), count * columns()));
      row += count;
    }
  }

  // Rows [row, row + count) of one block.
  void rotate(std::int64_t row, std::int64_t count, std::span<float> out) const {
    const std::int64_t d = rotation_.dim(0);
    const std::int64_t block = row / d * d;
    const float* rotation = rotation_.as<float>().data() + row % d;
    std::vector<float> values(static_cast<std::size_t>(std::min(kSourceRowsAtOnce, d) * columns()));
    std::vector<double> sums(out.size());
    for (std::int64_t i = 0; i < d; i += kSourceRowsAtOnce) {
      const std::int64_t depth = std::min(kSourceRowsAtOnce, d - i);
      source_->read(block + i, part(std::span(values), 0, depth * columns()));
      add_product({rotation + i * d, 1, d}, count, depth, values.data(), columns(), columns(),
                  sums.data());
    }
    std::ranges::transform(sums, out.begin(), [](double sum) { return static_cast<float>(sum); });
  }

  Tensor rotation_;
};

Rows scaled(const Rows& source, std::vector<float> factors, Scaling scaling, std::int64_t expected,
            std::string_view place) {
  if (static_cast<std::int64_t>(factors.size()) != expected)
    fail(ErrorCode::kInvalidArgument, "[rows] {}: expected {} factors, got {}", place, expected,
         factors.size());
  const auto bad = std::ranges::find_if(factors, [](float f) { return !std::isfinite(f); });
  if (bad != factors.end())
    fail(ErrorCode::kInvalidArgument, "[rows] {}: factor {}: expected a finite number, got {}",
         place, bad - factors.begin(), *bad);
  return std::make_shared<ScaledRows>(source, std::move(factors), scaling);
}

void require_rotation(const Tensor& rotation, std::int64_t length, std::string_view place) {
  const bool square = !rotation.empty() && rotation.dtype() == DType::kF32 &&
                      rotation.shape().size() == 2 && rotation.dim(0) == rotation.dim(1);
  if (!square)
    fail(ErrorCode::kInvalidArgument, "[rows] {}: expected a rotation F32 [d, d], got {} {}", place,
         to_string(rotation.dtype()), to_string(rotation.shape()));
  if (rotation.dim(0) < 1 || length % rotation.dim(0) != 0)
    fail(ErrorCode::kInvalidArgument, "[rows] {}: {} are not a multiple of the rotation's {}",
         place, length, rotation.dim(0));
}

}  // namespace

RowSource::RowSource(std::int64_t rows, std::int64_t columns, DType dtype)
    : rows_(rows), columns_(columns), dtype_(dtype) {
  if (rows < 0 || columns < 1)
    fail(ErrorCode::kInvalidArgument, "[rows] [{}, {}] is not a matrix", rows, columns);
  if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBF16)
    fail(ErrorCode::kInvalidArgument, "[rows] expected F32, F16 or BF16, got {}", to_string(dtype));
}

void RowSource::read(std::int64_t first, std::span<float> out) const {
  const auto size = static_cast<std::int64_t>(out.size());
  if (size % columns_ != 0)
    fail(ErrorCode::kInvalidArgument, "[rows] expected whole rows of {} values, got {} values",
         columns_, size);
  require_rows(*this, first, size / columns_);
  if (size > 0) read_rows(first, out);
}

Rows stored_rows(Tensor values) {
  if (values.empty()) fail(ErrorCode::kFormat, "[rows] expected a matrix, got an empty tensor");
  if (values.shape().size() != 2 || values.dim(1) < 1 || !is_float(values.dtype()))
    fail(ErrorCode::kFormat, "[rows] expected a matrix of F32, F16, BF16, F64 or F8, got {} {}",
         to_string(values.dtype()), to_string(values.shape()));
  const DType dtype = values.dtype() == DType::kF64 ? DType::kF32
                      : is_f8(values.dtype())       ? DType::kF16
                                                    : values.dtype();
  return std::make_shared<StoredRows>(std::move(values), dtype);
}

Rows slice_rows(const Rows& source, std::int64_t first, std::int64_t count) {
  require_rows(require(source), first, count);
  if (const Tensor* tensor = source->stored()) return stored_rows(tensor->rows(first, count));
  return std::make_shared<SlicedRows>(source, first, count);
}

Rows gather_rows(const Rows& source, std::vector<std::int64_t> indices) {
  require(source);
  for (const std::int64_t index : indices) require_rows(*source, index, 1);
  if (const Tensor* tensor = source->stored()) return stored_rows(tensor->gather_rows(indices));
  return std::make_shared<GatheredRows>(source, std::move(indices));
}

Rows join_rows(std::vector<Rows> parts) {
  if (parts.empty()) fail(ErrorCode::kInvalidArgument, "[rows] expected matrices, got none");
  DType dtype = require(parts.front()).dtype();
  std::int64_t rows = 0;
  for (const Rows& part : parts) {
    if (require(part).columns() != parts.front()->columns())
      fail(ErrorCode::kInvalidArgument, "[rows] expected {} columns, got {}",
           parts.front()->columns(), part->columns());
    if (part->dtype() != dtype) dtype = DType::kF32;
    rows += part->rows();
  }
  return std::make_shared<JoinedRows>(std::move(parts), rows, dtype);
}

Rows scale_columns(const Rows& source, std::vector<float> factors) {
  const std::int64_t columns = require(source).columns();
  return scaled(source, std::move(factors), Scaling::kColumns, columns, "factors of columns");
}

Rows scale_rows(const Rows& source, std::vector<float> factors) {
  const std::int64_t rows = require(source).rows();
  return scaled(source, std::move(factors), Scaling::kRows, rows, "factors of rows");
}

Rows divide_rows(const Rows& source, std::vector<float> divisors) {
  const std::int64_t rows = require(source).rows();
  if (const auto zero = std::ranges::find(divisors, 0.0F); zero != divisors.end())
    fail(ErrorCode::kInvalidArgument, "[rows] divisor {} of rows is 0", zero - divisors.begin());
  return scaled(source, std::move(divisors), Scaling::kDivideRows, rows, "divisors of rows");
}

Rows clamp_groups(const Rows& source, Tensor bounds) {
  const RowSource& matrix = require(source);
  const bool fits = !bounds.empty() && bounds.dtype() == DType::kF32 &&
                    bounds.shape().size() == 2 && bounds.dim(0) == matrix.rows() &&
                    bounds.dim(1) > 0 && matrix.columns() % bounds.dim(1) == 0;
  if (!fits)
    fail(ErrorCode::kInvalidArgument,
         "[rows] expected F32 bounds, one row of groups for each of [{}, {}]", matrix.rows(),
         matrix.columns());
  const auto values = bounds.as<float>();
  if (!std::ranges::all_of(values, [](float bound) { return bound >= 0; }))
    fail(ErrorCode::kInvalidArgument, "[rows] expected bounds of at least 0");
  return std::make_shared<ClampedRows>(source, std::move(bounds));
}

Rows round_rows(const Rows& source, DType dtype) {
  if (require(source).dtype() == dtype) return source;
  return std::make_shared<RoundedRows>(source, dtype);
}

Rows rotate_columns(const Rows& source, Tensor rotation) {
  require_rotation(rotation, require(source).columns(), "columns");
  return std::make_shared<RotatedColumns>(source, std::move(rotation));
}

Rows rotate_rows(const Rows& source, Tensor rotation) {
  require_rotation(rotation, require(source).rows(), "rows");
  return std::make_shared<RotatedRows>(source, std::move(rotation));
}

}  // namespace tandem
