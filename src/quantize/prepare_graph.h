// What a recipe does with a float graph before its weights are rounded: its passes, and calibration.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "graph/pass.h"
#include "quantize/calibration.h"
#include "quantize/journal.h"
#include "quantize/recipe.h"
#include "quantize/weight_sink.h"

namespace tandem {

struct PreparedGraph {
  // Computes what the loaded one does, as far as passes only rescale; with the scales of an int8 KV
  // cache if the recipe asks for it.
  Graph graph;
  // By module, for static inputs; empty if nothing was calibrated.
  std::map<std::string, InputStatistics> statistics;
};

struct PrepareInputs {
  // What passes and calibration learn from; may be null where the recipe needs no text, or where the
  // cache's scales are not wanted.
  const CalibrationWindows* windows = nullptr;
  // Whether static inputs are calibrated.
  bool calibrates = true;
  // Where the weights that passes make go.
  WeightSink& sink;
  // The part of a journal for a pass that learns, or for calibration; may return null.
  std::function<BlockJournal*(const std::string&)> part_of = [](const std::string&) {
    return nullptr;
  };
};

// Runs the recipe's passes, then calibrates. The recipe, the windows and the sink must outlive what
// is returned. Throws as the passes do, and kCancelled.
PreparedGraph prepare_graph(const Graph& loaded, const Recipe& recipe, const PrepareInputs& inputs,
                            PassContext& context);

}  // namespace tandem
