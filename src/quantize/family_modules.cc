// Collects the rows of fused modules.
#include "quantize/family_modules.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "models/model.h"

namespace tandem {
namespace {

std::int64_t rows_of(const Node& node) {
  return node.op == Op::kLinear ? output_channels(node.as<LinearAttributes>().weight) : 0;
}

// The rows of the family's module that are those of `node`.
std::vector<std::int64_t> rows_in(const ModulePlace& place, const Node& node) {
  if (!place.rows.empty()) return place.rows;
  std::vector<std::int64_t> rows(static_cast<std::size_t>(rows_of(node)));
  for (std::size_t i = 0; i < rows.size(); ++i)
    rows[i] = place.first_row + static_cast<std::int64_t>(i);
  return rows;
}

// From the rows of a module, in the order of its nodes, to what FamilyModule::order says.
std::vector<std::int64_t> invert(const FamilyModule& module, const std::vector<std::int64_t>& rows,
                                 std::int64_t all_rows) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(all_rows), -1);
  for (std::size_t i = 0; i < rows.size(); ++i)
    order.at(static_cast<std::size_t>(rows[i])) = static_cast<std::int64_t>(i);
  if (std::ranges::find(order, -1) != order.end())
    fail(ErrorCode::kUnsupported, "[export] {}: expected {} output channels, the graph has {}",
         module.name, all_rows, rows.size());
  return std::ranges::is_sorted(order) ? std::vector<std::int64_t>() : order;
}

}  // namespace

std::vector<FamilyModule> family_modules(const Graph& graph, const Checkpoint& checkpoint) {
  const ModulePlaces places = module_places(checkpoint.config_object());
  struct Fused {
    std::int64_t all_rows = 0;
    std::vector<std::int64_t> rows;
  };
  std::vector<FamilyModule> modules;
  // By name, and the place in `modules`.
  std::map<std::string, std::pair<std::size_t, Fused>> fused;
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    if (node.op != Op::kLinear && node.op != Op::kRmsNorm && node.op != Op::kEmbedding) continue;
    std::optional<ModulePlace> place;
    if (!checkpoint.has(node.name + ".weight")) place = places(node.name);
    if (!place || !checkpoint.has(place->module + ".weight")) {
      modules.push_back({node.name, {id}, {}});
    } else if (place->all_rows == 0) {
      modules.push_back({place->module, {id}, {}});
    } else {
      const auto [at, is_new] = fused.try_emplace(place->module, modules.size(), Fused{});
      auto& [number, collected] = at->second;
      if (is_new) modules.push_back({place->module, {}, {}});
      modules[number].nodes.push_back(id);
      collected.all_rows = place->all_rows;
      const std::vector<std::int64_t> rows = rows_in(*place, node);
      collected.rows.insert(collected.rows.end(), rows.begin(), rows.end());
    }
  }
  for (const auto& [name, entry] : fused) {
    const auto& [number, collected] = entry;
    modules[number].order = invert(modules[number], collected.rows, collected.all_rows);
  }
  return modules;
}

Weight weight_of(const Graph& graph, const FamilyModule& module) {
  std::vector<Weight> parts;
  for (const NodeId id : module.nodes)
    parts.push_back(graph.node(id).as<LinearAttributes>().weight);
  if (parts.size() == 1 && module.order.empty()) return parts.front();
  const Weight joined = join_rows(parts);
  return module.order.empty() ? joined : gather_rows(joined, module.order);
}

std::vector<float> bias_of(const Graph& graph, const FamilyModule& module) {
  std::vector<float> all;
  for (const NodeId id : module.nodes) {
    const Tensor& bias = graph.node(id).as<LinearAttributes>().bias;
    if (bias.empty()) continue;
    const std::vector<float> values = bias.to_floats();
    all.insert(all.end(), values.begin(), values.end());
  }
  if (all.empty() || module.order.empty()) return all;
  std::vector<float> ordered;
  for (const std::int64_t row : module.order)
    ordered.push_back(all.at(static_cast<std::size_t>(row)));
  return ordered;
}

float norm_offset(const Checkpoint& checkpoint, const std::string& name, const Node& norm) {
  const Tensor& gain = norm.as<RmsNormAttributes>().weight;
  const std::vector<float> loaded = gain.to_floats();
  const std::vector<float> stored = checkpoint.tensor(name + ".weight", gain.shape()).to_floats();
  if (loaded == stored) return 0;
  for (std::size_t i = 0; i < loaded.size(); ++i)
    if (loaded[i] != stored[i] + 1)
      fail(ErrorCode::kUnsupported, "[export] {}: this family's norms are not exported", name);
  return 1;
}

}  // namespace tandem
