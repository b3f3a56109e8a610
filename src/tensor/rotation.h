// Orthogonal matrices that mix channels, and rows that are multiplied by them when they are read.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tensor/row_source.h"
#include "tensor/tensor.h"

namespace tandem {

// R = diag(signs) · (M ⊗ H), where H is the orthonormal Hadamard matrix of order n, a power of two,
// H[i][j] = (-1)^popcount(i & j) / sqrt(n), and M is any matrix [m, m]: a product takes m
// multiplications and log2(n) additions for each element instead of m n multiplications. A matrix
// without such a structure is M with n = 1. Immutable.
class Rotation {
 public:
  // Throws kInvalidArgument unless it is F32 [d, d] with d > 0, and orthogonal: |RᵀR v - v| <= 1e-3
  // for some vectors v of ±1.
  explicit Rotation(Tensor matrix);
  // M is hadamard_factor(size). Throws kInvalidArgument for a size below 1, as do the two others.
  static Rotation hadamard(std::int64_t size);
  // The same with random signs. For a seed it is the same on every machine, as is random().
  static Rotation random_hadamard(std::int64_t size, std::uint64_t seed);
  // Uniformly distributed: the Q of a matrix of normally distributed numbers.
  static Rotation random(std::int64_t size, std::uint64_t seed);

  std::int64_t size() const noexcept { return factor_.dim(0) * order_; }
  // R, F32 [size, size].
  Tensor matrix() const;

  // values [size, width] := Rᵀ · values, so that with a width of 1 the vector x becomes x · R.
  void apply(std::span<double> values, std::int64_t width) const;
  // Whether n > 1.
  bool is_fast() const noexcept { return order_ > 1; }
  // M, which is R itself unless is_fast().
  const Tensor& factor() const noexcept { return factor_; }

 private:
  Rotation(std::vector<double> signs, Tensor factor, std::int64_t order);

  // ±1 for each row of R; empty: all 1. None where n is 1.
  std::vector<double> signs_;
  Tensor factor_;
  std::int64_t order_ = 1;
};

// W · diag(R, …, R), columns % R.size() == 0: x · R for every R.size() consecutive columns x of a
// row. Computed in double, rounded once. Throws kInvalidArgument for a rotation that does not fit.
Rows rotate_columns(const Rows& source, const Rotation& rotation);

// diag(R, …, R)ᵀ · W, rows % R.size() == 0: y[b d + j][c] = sum_i R[i][j] * w[b d + i][c].
// Computed in double, rounded once. A read computes whole blocks of d rows; large ones stay in
// memory until release(). Throws kInvalidArgument for a rotation that does not fit.
Rows rotate_rows(const Rows& source, const Rotation& rotation);

// diag(R, …, R)ᵀ · b for a vector b, F32 [a multiple of R.size()].
Tensor rotate_vector(const Tensor& vector, const Rotation& rotation);

}  // namespace tandem
