// The tables of kernels in this build; select.cc decides which of them a processor can run.
#pragma once

#include "kernels/kernels.h"

namespace tandem {

const Kernels& ref_kernels() noexcept;

// attention(): at most this many (row, head) pairs share one pass over the keys and values, and at
// least one row with all the heads of its group. 48 is eight register tiles of six: enough to
// amortise converting a block from float16, while the accumulators stay in the L2 cache.
inline constexpr std::int64_t kAttentionTileRows = 48;

// int_attention(): the same; fewer, because a row keeps the scores of all its columns.
inline constexpr std::int64_t kIntAttentionTileRows = 12;

// GELU with the tanh approximation, as x / (1 + exp(-kGeluScale * (x + kGeluCubic * x³))): twice
// the square root of 2 / pi, and the cubic coefficient that best fits the error function.
inline constexpr float kGeluScale = 1.5957691216F;
inline constexpr float kGeluCubic = 0.044715F;

}  // namespace tandem
