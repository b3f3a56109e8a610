// The passes that a recipe can name: each rewrites the float graph without changing what it
// computes.
#pragma once

#include <string>
#include <vector>

#include "graph/pass.h"
#include "quantize/recipe.h"

namespace tandem {

// Folds the gain of every norm whose output is read only by float Linears into their weights:
// norm(x) * g · Wᵀ = norm(x) · (W diag(g))ᵀ. The norms stay, with gains of one.
Graph fold_norms(const Graph& graph);

// Gives a tied head its own weight, so that later passes can change the head and the embedding
// independently.
Graph untie_head(const Graph& graph);

// Empty if the step names a pass that knows its settings; else a description of what was expected.
std::string objection_to_pass(const PassStep& step);
// Throws kInvalidArgument for a step with an objection.
Pass make_pass(const PassStep& step);

}  // namespace tandem
