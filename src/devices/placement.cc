// Assigns claimed nodes to devices and splits the graph into segments.
#include "devices/placement.h"

#include <algorithm>
#include <map>

#include "base/error.h"

namespace tandem {
namespace {

// "model.layers.3.mlp.up_proj" -> "mlp.up_proj", so that the blocks' rows can be merged.
std::string name_in_block(const Node& node) {
  const std::string block = fmt::format(".{}.", node.layer);
  const std::size_t at = node.layer < 0 ? std::string::npos : node.name.find(block);
  return at == std::string::npos ? node.name : node.name.substr(at + block.size());
}

constexpr std::size_t kNobody = static_cast<std::size_t>(-1);

class Placer {
 public:
  Placer(const Graph& graph, const PhaseSpec& spec, std::span<const Device* const> devices)
      : graph_(graph), devices_(devices) {
    placement_.spec = spec;
    for (const Device* device : devices) placement_.devices.emplace_back(device->name());
    placement_.nodes.assign(graph.nodes().size(), {kNobody, {}});
    placement_.costs.resize(devices.size());
  }

  Placement place() {
    for (std::size_t d = 0; d < devices_.size(); ++d) take_offer(d);
    for (std::size_t i = 0; i < placement_.nodes.size(); ++i) {
      const Node& node = graph_.nodes()[i];
      if (placement_.nodes[i].device == kNobody)
        fail(ErrorCode::kUnsupported, "[placement] {}: no device runs {} in {}: {}", node.name,
             to_string(node.op), to_string(placement_.spec.phase), placement_.nodes[i].reason);
    }
    cut_segments();
    return std::move(placement_);
  }

 private:
  PlacedNode& placed(NodeId id, std::size_t device) {
    if (id < 0 || static_cast<std::size_t>(id) >= placement_.nodes.size())
      fail(ErrorCode::kInternal, "[placement] {} offers node {} of {}", devices_[device]->name(),
           id, placement_.nodes.size());
    return placement_.nodes[static_cast<std::size_t>(id)];
  }

  void say(PlacedNode& node, std::size_t device, const std::string& reason) const {
    if (!node.reason.empty()) node.reason += "; ";
    node.reason +=
        devices_.size() == 1 ? reason : fmt::format("{}: {}", devices_[device]->name(), reason);
  }

  void take_offer(std::size_t device) {
    const Offer offer = devices_[device]->offer(graph_, placement_.spec);
    for (const Claim& claim : offer.claims) {
      const bool free = std::ranges::all_of(
          claim.nodes, [&](NodeId id) { return placed(id, device).device == kNobody; });
      if (!free) continue;
      for (std::size_t i = 0; i < claim.nodes.size(); ++i) {
        PlacedNode& node = placed(claim.nodes[i], device);
        node.device = device;
        say(node, device, i < claim.reasons.size() ? claim.reasons[i] : "claimed");
      }
      placement_.costs[device] += claim.cost;
    }
    for (const Refusal& refusal : offer.refusals) {
      PlacedNode& node = placed(refusal.node, device);
      if (node.device == kNobody) say(node, device, refusal.reason);
    }
  }

  // Runs the ready nodes of the same block on the current device for as long as there are any, then
  // continues with the first remaining node: a claim becomes one segment, wherever its nodes are in
  // the graph.
  void cut_segments() {
    const auto nodes = static_cast<NodeId>(graph_.nodes().size());
    std::vector<bool> written(graph_.values().size(), false);
    for (const ValueId input : graph_.inputs()) written[static_cast<std::size_t>(input)] = true;
    std::vector<bool> done(graph_.nodes().size(), false);
    const auto is_ready = [&](const Node& node) {
      return std::ranges::all_of(node.inputs,
                                 [&](ValueId id) { return written[static_cast<std::size_t>(id)]; });
    };
    for (NodeId next = 0; next < nodes;) {
      if (done[static_cast<std::size_t>(next)]) {
        ++next;
        continue;
      }
      const std::int32_t layer = graph_.node(next).layer;
      Segment segment{placement_.nodes[static_cast<std::size_t>(next)].device, {}};
      for (NodeId id = next; id < nodes && graph_.node(id).layer == layer; ++id) {
        const Node& node = graph_.node(id);
        if (done[static_cast<std::size_t>(id)] || !is_ready(node) ||
            placement_.nodes[static_cast<std::size_t>(id)].device != segment.device)
          continue;
        segment.nodes.push_back(id);
        done[static_cast<std::size_t>(id)] = true;
        for (const ValueId output : node.outputs) written[static_cast<std::size_t>(output)] = true;
      }
      placement_.segments.push_back(std::move(segment));
    }
  }

  const Graph& graph_;
  std::span<const Device* const> devices_;
  Placement placement_;
};

}  // namespace

Placement place(const Graph& graph, const PhaseSpec& spec, std::span<const Device* const> devices) {
  return Placer(graph, spec, devices).place();
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
      fmt::format("{} ({} segments)\n", to_string(placement.spec.phase), placement.segments.size());
  table += fmt::format("  {:{}}  {:{}}  count  device  reason\n", "module", module_width,
                       "operator", op_width);
  for (const Row& row : rows) {
    table += fmt::format("  {:{}}  {:{}}  {:5}  {:6}  {}\n", row.module, module_width, row.op,
                         op_width, row.count, row.device, row.reason);
  }
  return table;
}

}  // namespace tandem
