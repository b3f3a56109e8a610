// A float matrix that is read by rows, so that transformations of weights compose without a copy of
// the model in memory: the result of a pass is computed when its rows are read.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace tandem {

// A matrix [rows, columns] of float32 values. Immutable and thread-safe.
class RowSource {
 public:
  virtual ~RowSource() = default;
  RowSource(const RowSource&) = delete;
  RowSource& operator=(const RowSource&) = delete;

  std::int64_t rows() const noexcept { return rows_; }
  std::int64_t columns() const noexcept { return columns_; }
  // F32, F16 or BF16: a type in which every value is exact.
  DType dtype() const noexcept { return dtype_; }

  // Reads whole rows starting at `first`, row-major; out.size() is a multiple of columns(). Throws
  // kInvalidArgument for rows that don't exist or a partial row. Where rows are computed, reading
  // several at once costs less than one at a time (64 are enough).
  void read(std::int64_t first, std::span<float> out) const;

  // The tensor [rows, columns] of type dtype() if the rows are in memory as they are; null if they
  // are computed.
  virtual const Tensor* stored() const noexcept { return nullptr; }
  // Releases the memory used by mapped tensors.
  virtual void release() const noexcept {}

 protected:
  // Throws kInvalidArgument for a negative number of rows, no columns or another dtype.
  RowSource(std::int64_t rows, std::int64_t columns, DType dtype);

 private:
  // read() with validated arguments, at least one row.
  virtual void read_rows(std::int64_t first, std::span<float> out) const = 0;

  std::int64_t rows_;
  std::int64_t columns_;
  DType dtype_;
};

using Rows = std::shared_ptr<const RowSource>;

// Calls visit(row, values) for the rows [begin, end), several at a time: `row` is the first of them.
template <typename Visit>
void visit_rows(const RowSource& source, std::int64_t begin, std::int64_t end, Visit&& visit) {
  constexpr std::int64_t kAtOnce = 64;
  std::vector<float> values(static_cast<std::size_t>(kAtOnce * source.columns()));
  for (std::int64_t row = begin; row < end; row += kAtOnce) {
    const std::int64_t count = end - row < kAtOnce ? end - row : kAtOnce;
    const auto some = std::span(values).first(static_cast<std::size_t>(count * source.columns()));
    source.read(row, some);
    visit(row, some);
  }
}

// The rows of a tensor [rows, columns] of F32, F16, BF16, F64, F8_E4M3 or F8_E5M2; throws kFormat
// for anything else. F64 is read as the nearest F32 values and 8-bit floats as F16, and therefore
// stored() is null.
Rows stored_rows(Tensor values);

// Rows [first, first + count); shares memory with stored rows. Throws kInvalidArgument for rows
// that don't exist.
Rows slice_rows(const Rows& source, std::int64_t first, std::int64_t count);

// The given rows in the given order; a copy of stored rows, in their type. Throws kInvalidArgument
// for a row that doesn't exist.
Rows gather_rows(const Rows& source, std::vector<std::int64_t> indices);

// The rows of several matrices, one after the other: read where they are, in the type of all or else
// F32. Throws kInvalidArgument for none, or unless they have as many columns.
Rows join_rows(std::vector<Rows> parts);

// W · diag(f): w[r][c] * f[c]. Throws kInvalidArgument unless there is one finite factor per
// column.
Rows scale_columns(const Rows& source, std::vector<float> factors);

// diag(f) · W: w[r][c] * f[r]. Throws kInvalidArgument unless there is one finite factor per row.
Rows scale_rows(const Rows& source, std::vector<float> factors);

// diag(1 / d) · W: w[r][c] / d[r]. Throws kInvalidArgument unless there is one finite divisor other
// than 0 per row.
Rows divide_rows(const Rows& source, std::vector<float> divisors);

// Every value limited to ±bounds[r][c / group], bounds F32 [rows, columns / group]. Throws
// kInvalidArgument for bounds that do not fit.
Rows clamp_groups(const Rows& source, Tensor bounds);

// Every value rounded to `dtype` (F32, F16 or BF16), ties to even.
Rows round_rows(const Rows& source, DType dtype);

// W · diag(R, …, R), R F32 [d, d] with columns % d == 0: every d consecutive columns of a row are
// multiplied by R, y[b d + j] = sum_i w[b d + i] * R[i][j]. Accumulated in double in the order of
// i, rounded once. Throws kInvalidArgument for a rotation that does not fit.
Rows rotate_columns(const Rows& source, Tensor rotation);

// diag(R, …, R)ᵀ · W, R F32 [d, d] with rows % d == 0: y[b d + j][c] = sum_i R[i][j] * w[b d +
// i][c]. Accumulated in double in the order of i, rounded once. Each read covers the whole blocks
// of d source rows that it touches. Throws kInvalidArgument for a rotation that does not fit.
Rows rotate_rows(const Rows& source, Tensor rotation);

}  // namespace tandem
