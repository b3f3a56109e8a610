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

// Of each group of each row, the bound among largest |w| · (1 − i / 20), i = 0 … 9, whose clipped
// and quantized weights change the group's part of the output least: the mean squared error over
// the rows `x`, [tokens, columns]; of equal ones the largest. F32 [rows, columns / group]. As AWQ
// does it (Lin et al., 2023), in AMD Quark's steps.
Tensor search_clip(const RowSource& weight, const Scheme& scheme, std::span<const float> x,
                   ThreadPool& pool);

}  // namespace tandem
