// The passes mse_clip and seqmse: weights limited to the range that rounds with the least error.
#pragma once

#include "base/observer.h"
#include "base/thread_pool.h"
#include "graph/graph.h"
#include "quantize/block_runner.h"
#include "quantize/recipe.h"

namespace tandem {

// Every Linear that the recipe's decode schemes quantize is clipped, group by group, to where the
// squared error of its weights is least.
Graph clip_weights(const Graph& graph, const Recipe& recipe, ThreadPool& pool, Observer& observer);

// Sequential mean squared error, as the Qualcomm AI model efficiency toolkit calls it: the Linears
// of one decoder block after the other are clipped to where the error of their output is least on
// what the blocks before it compute once they are clipped and quantized. Linears outside blocks
// stay. Throws kInvalidArgument for windows that do not fit, and kCancelled.
Graph clip_outputs(const Graph& graph, const Recipe& recipe, const CalibrationWindows& windows,
                   ThreadPool& pool, Observer& observer, BlockJournal* journal = nullptr);

}  // namespace tandem
