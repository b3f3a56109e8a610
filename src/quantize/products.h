// Products of float matrices on this machine's CPU, with the kernels that run models.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "kernels/panels.h"
#include "tensor/tensor.h"

namespace tandem {

// x [rows, k] · weightᵀ, weight [n, k]; row-major [rows, n].
std::vector<float> multiply(std::span<const float> x, const Tensor& weight, ThreadPool& pool);

// Divides each column of row-major rows by its divisor.
void divide_columns(std::span<float> rows, std::span<const float> divisors, ThreadPool& pool);

// The Gram matrix xᵀ · x [k, k] of rows that are seen piece by piece: all that a squared error of a
// Linear depends on. Summed in float32.
class GramMatrix {
 public:
  GramMatrix(std::int64_t k, ThreadPool& pool);

  // Rows [rows, k].
  void add(std::span<const float> x);

  std::int64_t k() const noexcept { return k_; }
  // Row-major; call after the last add().
  std::span<const float> values();
  // values(), moved out.
  std::vector<float> take() &&;

 private:
  void mirror();

  std::int64_t k_;
  ThreadPool& pool_;
  // What add() fills is the lower triangle and the blocks on the diagonal.
  std::vector<float> sum_;
};

// Products with one symmetric matrix for each group of columns, on the calling thread.
class GroupProducts {
 public:
  // `matrices`: [groups][size][size].
  GroupProducts(const std::vector<float>& matrices, std::int64_t size, ThreadPool& pool);

  // y = x · matrix of `group`; x and y are [rows, size].
  void multiply(std::int64_t group, std::span<const float> x, std::span<float> y) const;

 private:
  const Kernels& kernels_;
  PanelLayout layout_;
  // Those of all groups.
  std::byte* panels_ = nullptr;
  Tensor memory_;
};

}  // namespace tandem
