// Gradient descent among rotations.
#pragma once

#include <cstdint>
#include <vector>

#include "base/thread_pool.h"

namespace tandem {

// A step of Cayley SGD (Li et al. 2020) without momentum, as SpinQuant takes it (Liu et al. 2024): with
// the skew part W of RᵀG, for the gradient G by an orthogonal R [size, size], R becomes R' = R - a/2 (R
// + R') W, which is orthogonal, by fixed-point iteration. a is `rate` divided by the largest column sum
// of |W|, so that no vector turns by more than about `rate`, which is at most 1. What the iteration
// leaves of R'ᵀR' - I is then squared, by a step of Newton's and Schulz's.
std::vector<float> cayley_step(const std::vector<float>& rotation,
                               const std::vector<float>& gradient, std::int64_t size, double rate,
                               ThreadPool& pool);

}  // namespace tandem
