#include "devices/placement.h"

#include <algorithm>
#include <map>

#include "base/error.h"

namespace tandem {
namespace {

// "model.layers.3.mlp.up_proj" -> "mlp.up_proj", so that the blocks' rows can be joined.
std::string name_in_block(const Node& node) {
  const std::string block = fmt::format(".{}.", node.layer);
  const std::size_t at = node.layer < 0 ? std::string::npos : node.name.find(block);
  return at == std::string::npos ? node.name : node.name.substr(at + block.size());
}

}  // namespace

Placement place(const Graph& graph, Phase phase, std::span<const Device* const> devices) {
  Placement placement;
  placement.phase = phase;
  for (const Device* device : devices) placement.devices.emplace_back(device->name());

  for (const Node& node : graph.nodes()) {
    PlacedNode placed;
    bool found = false;
    for (std::size_t d = 0; d < devices.size() && !found; ++d) {
      const Support support = devices[d]->supports(graph, node, phase);
      if (!placed.reason.empty()) placed.reason += "; ";
      placed.reason += devices.size() == 1
                           ? support.reason
                           : fmt::format("{}: {}", devices[d]->name(), support.reason);
      placed.device = d;
      found = support.yes;
    }
    if (!found) {
      fail(ErrorCode::kUnsupported, "[placement] {}: no device runs {} in {}: {}", node.name,
           to_string(node.op), to_string(phase), placed.reason);
    }
    placement.nodes.push_back(std::move(placed));
  }

  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const std::size_t device = placement.nodes[static_cast<std::size_t>(id)].device;
    const bool extends = !placement.segments.empty() &&
                         placement.segments.back().device == device &&
                         graph.node(id - 1).layer == graph.node(id).layer;
    if (!extends) placement.segments.push_back({device, id, id});
    placement.segments.back().end = id + 1;
  }
  return placement;
}

std::string to_table(const Graph& graph, const Placement& placement) {
  struct Row {
    std::string module, op, device, reason;
    int count = 0;
  };
  std::vector<Row> rows;
  for (std::size_t i = 0; i < graph.nodes().size(); ++i) {
    const Node& node = graph.nodes()[i];
    const PlacedNode& placed = placement.nodes[i];
    Row row{name_in_block(node), std::string(to_string(node.op)), placement.devices[placed.device],
            placed.reason, 1};
    const auto same = std::find_if(rows.begin(), rows.end(), [&](const Row& other) {
      return other.module == row.module && other.op == row.op && other.device == row.device &&
             other.reason == row.reason;
    });
    if (same == rows.end()) {
      rows.push_back(std::move(row));
    } else {
      ++same->count;
    }
  }
  std::size_t module_width = 6, op_width = 8;
  for (const Row& row : rows) {
    module_width = std::max(module_width, row.module.size());
    op_width = std::max(op_width, row.op.size());
  }
  std::string table =
      fmt::format("{} ({} segments)\n", to_string(placement.phase), placement.segments.size());
  table += fmt::format("  {:{}}  {:{}}  count  device  reason\n", "module", module_width,
                       "operator", op_width);
  for (const Row& row : rows) {
    table += fmt::format("  {:{}}  {:{}}  {:5}  {:6}  {}\n", row.module, module_width, row.op,
                         op_width, row.count, row.device, row.reason);
  }
  return table;
}

}  // namespace tandem
