// Runs what a recipe asks for before weights are rounded.
#include "quantize/prepare_graph.h"

#include <vector>

#include "quantize/passes.h"
#include "quantize/shadows.h"

namespace tandem {

PreparedGraph prepare_graph(const Graph& loaded, const Recipe& recipe, const PrepareInputs& inputs,
                            PassContext& context) {
  std::vector<Pass> passes;
  for (const PassStep& step : recipe.passes)
    passes.push_back(
        needs_text(step)
            ? make_pass(step, recipe, {inputs.windows, inputs.sink, inputs.part_of(step.name)})
            : make_pass(step, recipe, {nullptr, inputs.sink}));
  PreparedGraph prepared{run_passes(loaded, passes, context), {}};
  const bool with_kv = recipe.kv == DType::kI8;
  if ((!inputs.calibrates && !with_kv) || inputs.windows == nullptr) return prepared;
  AttentionRanges ranges;
  Task task(context.observer, "calibrate", prepared.graph.layers(), "blocks");
  prepared.statistics = calibrate(
      prepared.graph, *inputs.windows, context.pool, [&](int, int) { task.advance(); },
      inputs.part_of("calibrate"), recipe.calibration.shadow.budget > 0,
      with_kv ? &ranges : nullptr);
  if (with_kv) prepared.graph = with_kv_scales(prepared.graph, ranges);
  choose_shadows({prepared.graph, loaded, recipe, *inputs.windows}, prepared.statistics,
                 context.pool, context.observer);
  return prepared;
}

}  // namespace tandem
