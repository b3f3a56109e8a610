// The tables of kernels that this build holds; select.cc says which of them a processor can run.
#pragma once

#include "kernels/kernels.h"

namespace tandem {

const Kernels& ref_kernels() noexcept;

// attention(): up to this many (row, head) pairs share one pass over the keys and values, at least
// one row with all the heads of its group. 48 are eight register tiles of six, enough to make the
// conversion of a block from float16 cheap, and their accumulators stay in the second-level cache.
inline constexpr std::int64_t kAttentionTileRows = 48;

// GELU's approximation with tanh, x / (1 + exp(-kGeluScale * (x + kGeluCubic * x³))): twice the
// square root of 2 / pi, and the cubic term that fits the error function best.
inline constexpr float kGeluScale = 1.5957691216F;
inline constexpr float kGeluCubic = 0.044715F;

}  // namespace tandem
