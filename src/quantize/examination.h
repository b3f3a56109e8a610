// What a package lost module by module, or what a checkpoint would lose, and what buys it back.
#pragma once

#include <optional>

#include "base/files.h"
#include "base/observer.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "graph/graph.h"
#include "models/model.h"
#include "package/package.h"
#include "quantize/calibration_text.h"
#include "quantize/quality_gate.h"
#include "quantize/quantize_linears.h"
#include "quantize/recipe.h"

namespace tandem {

struct ExaminationOptions {
  // What is compared with.
  fs::path checkpoint;
  // A package that was made of it, whose recipe is examined; null: `recipe` is.
  const Package* package = nullptr;
  Recipe recipe = default_recipe();
  // The text that the package was calibrated on; empty: the built-in one, unless it was another.
  fs::path calibration = {};
  // Whether prompts are read with prefill's forms.
  bool has_prefill = true;
  // The limit that repairs keep to, and how much they may add; its text is not read. Without it
  // nothing is repaired.
  std::optional<GateOptions> repairs = {};
};

// Quantizes the checkpoint once more, as the recipe says: a single module of a package can't be put
// into the float model where passes have moved factors between modules.
class Examination {
 public:
  // Opens the checkpoint and the text. Throws kInvalidArgument for a package of a model with other
  // sizes, for a recipe that does not fit the model, and without the text that is needed; kFormat
  // for a package without a recipe. The package and the pool must outlive this object.
  Examination(ExaminationOptions options, ThreadPool& pool, Observer& observer);
  Examination(const Examination&) = delete;
  Examination& operator=(const Examination&) = delete;

  // Measures on the windows, and repairs the recipe. Where the package has other codes than are
  // made now: throws kInvalidArgument if its recipe learns from no text, so that it must be one of
  // other weights, else warns.
  GateReport run(CalibrationWindows windows);
  // After run() with the rules of repairs.
  const Recipe& recipe() const noexcept { return recipe_; }

 private:
  void read_text();
  void require_same_codes(const Graph& graph, LinearQuantizer& quantizer);

  ExaminationOptions options_;
  ThreadPool& pool_;
  Observer& observer_;
  Checkpoint checkpoint_;
  ModelInfo info_;
  CheckpointWeights weights_;
  Graph loaded_;
  Recipe recipe_;
  std::optional<CalibrationText> text_;
};

// The recipe that a package was made with, without the files that its passes saved. Throws kFormat,
// naming file and key.
Recipe recipe_of(const Package& package);

}  // namespace tandem
