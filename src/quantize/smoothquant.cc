// One pass over the text for the activations, one over the weights, and a rescaled graph.
#include "quantize/smoothquant.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "quantize/calibration.h"
#include "quantize/scaling_groups.h"

namespace tandem {
namespace {

// The largest |w| of each column.
void raise_to_columns(const RowSource& rows, std::vector<float>& largest) {
  const auto columns = static_cast<std::size_t>(rows.columns());
  visit_rows(rows, 0, rows.rows(), [&](std::int64_t, std::span<const float> values) {
    for (std::size_t i = 0; i < values.size(); ++i)
      largest[i % columns] = std::max(largest[i % columns], std::abs(values[i]));
  });
}

std::vector<float> factors_of(const Graph& graph, const ScalingGroup& group,
                              const std::vector<float>& activations, double alpha) {
  std::vector<float> weights(activations.size());
  for (const NodeId id : group.linears)
    raise_to_columns(*std::get<FloatWeight>(graph.node(id).as<LinearAttributes>().weight).rows,
                     weights);
  std::vector<float> factors(activations.size(), 1.0F);
  for (std::size_t c = 0; c < factors.size(); ++c) {
    if (activations[c] == 0 || weights[c] == 0) continue;
    factors[c] = static_cast<float>(std::pow(double{activations[c]}, alpha) /
                                    std::pow(double{weights[c]}, 1 - alpha));
  }
  // The query heads that share a head of values have one factor.
  return expanded_factors(group, factors);
}

}  // namespace

Graph smooth(const Graph& graph, const SmoothQuantSettings& settings,
             const CalibrationWindows& windows, ThreadPool& pool, Observer& observer,
             BlockJournal* journal) {
  Task task(observer, "smoothquant", graph.layers(), "blocks");
  const auto statistics =
      calibrate(graph, windows, pool, [&](int, int) { task.advance(); }, journal);
  const std::vector<ScalingGroup> groups = find_scaling_groups(graph);
  std::vector<std::vector<float>> factors;
  for (const ScalingGroup& group : groups) {
    factors.emplace_back();
    if (group.absorber != Absorber::kNorm && !settings.everywhere) continue;
    const InputStatistics& input = statistics.at(graph.node(group.linears.front()).name);
    factors.back() = factors_of(graph, group, input.channel_max, settings.alpha);
  }
  return rescale(graph, groups, factors);
}

}  // namespace tandem
