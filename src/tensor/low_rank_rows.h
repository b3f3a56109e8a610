// Rows of a matrix plus a product of two thin ones, as a low-rank adapter changes a weight.
#pragma once

#include <vector>

#include "tensor/row_source.h"

namespace tandem {

// W + scale · up · down, up [rows, r] and down [r, columns] of F32, F16 or BF16. Sums are
// accumulated in double and rounded once. Throws kInvalidArgument for factors that do not fit.
Rows add_low_rank(const Rows& source, Tensor up, Tensor down, double scale);

// Every row scaled to the given L2 norm; a row of zeros stays one. Throws kInvalidArgument unless
// there is one finite norm per row.
Rows set_row_norms(const Rows& source, std::vector<float> norms);

}  // namespace tandem
