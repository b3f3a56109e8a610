// Learned rotations: R1 and R2 for which rounding the activations and weights that they turn costs the
// least, found from random Hadamard matrices by gradient descent (cayley.h) on a loss that needs no
// model to be run (rotation_loss.h).
#pragma once

#include "base/observer.h"
#include "base/thread_pool.h"
#include "graph/graph.h"
#include "quantize/block_runner.h"
#include "quantize/recipe.h"
#include "quantize/rotate.h"

namespace tandem {

// make_rotations(), in which those of kind kLearned are. What is rounded is what the recipe says of
// prefill, or of decode where prefill stays float: R1 sees the inputs and weights of all Linears that
// read the residual stream, R2 those of its layer's output projection. Both are sampled: up to 2048
// tokens of 8192, and as many rows of the weights, of each input, fewer where all together would have
// more than 2^26 values. Throws kInvalidArgument for windows that do not fit, and kCancelled.
Rotations learn_rotations(const Graph& graph, const Recipe& recipe, const RotateSettings& settings,
                          const CalibrationWindows& windows, ThreadPool& pool, Observer& observer);

}  // namespace tandem
