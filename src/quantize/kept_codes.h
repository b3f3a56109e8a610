// Linears that a checkpoint holds quantized: their codes go into the package as they are, and other
// forms are made from the values behind them.
#pragma once

#include "base/observer.h"
#include "graph/graph.h"
#include "quantize/recipe.h"

namespace tandem {

// True for a Linear whose weight is codes.
bool is_quantized(const Node& linear);

// What the recipe says of a Linear. For one that is quantized, float stands for keeping its codes in
// that phase; any other form is one that can be made from them. Throws kInvalidArgument naming the
// module and what to change for other codes than those that are there.
ModulePlan plan_of(const Recipe& recipe, const Node& linear);

// Throws kInvalidArgument for a pass of the recipe that changes float weights and would find none.
void require_float_weights(const Recipe& recipe, const Graph& graph);

// Tells the observer what is kept, a line for each kind, and returns the number of modules.
std::int64_t report_kept(const Graph& graph, Observer& observer);

}  // namespace tandem
