// How far the weights of a group may be clipped: a smaller range rounds finer, and what it cuts off
// costs least where the input is small.
#pragma once

#include <cstdint>
#include <span>

#include "base/thread_pool.h"
#include "quantize/recipe.h"
#include "tensor/row_source.h"
#include "tensor/tensor.h"

namespace tandem {

// The bounds that are tried, as parts of a group's largest |w|.
struct ClipGrid {
  // 1 - i / steps, i = 0 … count - 1.
  int steps = 20;
  int count = 10;
  // Then the best of them plus (2 j / fine - 1) / steps, j = 0 … fine, up to 1; 0: no more.
  int fine = 0;
};

// Of each group of each row, the bound whose clipped and quantized weights change the group's part
// of the output least: the mean squared error over the rows `x`, [tokens, columns]; without any,
// that of the weights. Of equal ones the first. F32 [rows, columns / group]. The default grid and
// the error are those of AWQ (Lin et al., 2023) in AMD Quark's steps.
Tensor search_clip(const RowSource& weight, const Scheme& scheme, std::span<const float> x,
                   ThreadPool& pool, const ClipGrid& grid = {});

}  // namespace tandem
