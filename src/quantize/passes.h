// The passes that a recipe can name. Structural ones rewrite the float graph without changing what
// it computes; those that learn from a text also prepare it for being rounded.
#pragma once

#include <string>
#include <vector>

#include "graph/pass.h"
#include "quantize/block_runner.h"
#include "quantize/recipe.h"
#include "quantize/weight_sink.h"

namespace tandem {

// Folds the gain of every norm whose output is read only by float Linears into their weights:
// norm(x) * g · Wᵀ = norm(x) · (W diag(g))ᵀ. The norms stay, with gains of one.
Graph fold_norms(const Graph& graph);

// Gives a tied head its own weight, so that later passes can change the head and the embedding
// independently.
Graph untie_head(const Graph& graph);

// Empty if the step names a pass that knows its settings; else a description of what was expected.
std::string objection_to_pass(const PassStep& step);
// Whether the pass learns from a calibration text.
bool needs_text(const PassStep& step);
// Throws kInvalidArgument if a pass adds operators, for which a checkpoint has no place.
void require_no_operators(const Recipe& recipe);
// Whether a pass gives the embedding a table of its own, in float32.
bool rotates_embedding(const Recipe& recipe);
// What passes learn from, and where the weights they make go.
struct PassInputs {
  // May be null for a pass that needs no text.
  const CalibrationWindows* windows;
  WeightSink& sink;
  // Where a pass over the blocks keeps what is finished; may be null.
  BlockJournal* journal = nullptr;
};

// Throws kInvalidArgument for a step with an objection. The recipe, the windows and the sink must
// outlive the pass.
Pass make_pass(const PassStep& step, const Recipe& recipe, const PassInputs& inputs);

}  // namespace tandem
