// Assigns claimed nodes to devices and splits the graph into segments.
#include "devices/placement.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "graph/uses.h"

namespace tandem {
namespace {

// "model.layers.3.mlp.up_proj" -> "mlp.up_proj", so that the blocks' rows can be merged.
std::string name_in_block(const Node& node) {
  const std::string block = fmt::format(".{}.", node.layer);
  const std::size_t at = node.layer < 0 ? std::string::npos : node.name.find(block);
  return at == std::string::npos ? node.name : node.name.substr(at + block.size());
}

constexpr std::size_t kNobody = static_cast<std::size_t>(-1);
// Instead of the segment that writes a value: none, for an input of the graph; none so far.
constexpr int kOutside = -1;
constexpr int kNowhere = -2;

class Placer {
 public:
  Placer(const Graph& graph, const PhaseSpec& spec, std::span<const Device* const> devices)
      : graph_(graph), uses_(graph), devices_(devices) {
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
  // the graph. Two rules keep apart what two devices can do at once:
  // - A segment ends behind a value that another device reads, too: both go on from there.
  // - Nodes that read what another device computes beside a segment come after it.
  void cut_segments() {
    const auto nodes = static_cast<NodeId>(graph_.nodes().size());
    // By value: the segment that writes it.
    std::vector<int> written(graph_.values().size(), kNowhere);
    for (const ValueId input : graph_.inputs()) written[index(input)] = kOutside;
    std::vector<bool> done(graph_.nodes().size(), false);
    // By segment: how many others one behind the other it needs.
    std::vector<int> levels;
    const auto level_of = [&](ValueId id) {
      const int segment = written[index(id)];
      return segment < 0 ? -1 : levels[index(segment)];
    };
    for (NodeId next = 0; next < nodes;) {
      if (done[index(next)]) {
        ++next;
        continue;
      }
      const Node& first = graph_.node(next);
      const std::size_t device = placement_.nodes[index(next)].device;
      const auto number = static_cast<int>(levels.size());
      int level = 0;
      for (const ValueId input : first.inputs) level = std::max(level, level_of(input) + 1);
      levels.push_back(level);
      const auto joins = [&](const Node& node) {
        return std::ranges::all_of(node.inputs, [&](ValueId id) {
          if (written[index(id)] == number) return !is_read_elsewhere(id, device);
          return written[index(id)] != kNowhere && level_of(id) < level;
        });
      };
      Segment segment{device, {}, 0};
      int last_needed = kOutside;
      for (NodeId id = next; id < nodes && graph_.node(id).layer == first.layer; ++id) {
        const Node& node = graph_.node(id);
        if (done[index(id)] || placement_.nodes[index(id)].device != device || !joins(node))
          continue;
        segment.nodes.push_back(id);
        done[index(id)] = true;
        for (const ValueId input : node.inputs)
          if (written[index(input)] != number)
            last_needed = std::max(last_needed, written[index(input)]);
        for (const ValueId output : node.outputs) written[index(output)] = number;
      }
      segment.beside = index(number - last_needed - 1);
      placement_.segments.push_back(std::move(segment));
    }
  }

  // Whether a node on another device reads the value.
  bool is_read_elsewhere(ValueId value, std::size_t device) const {
    return std::ranges::any_of(uses_.readers(value), [&](NodeId reader) {
      return placement_.nodes[index(reader)].device != device;
    });
  }

  template <typename Id>
  static std::size_t index(Id id) {
    return static_cast<std::size_t>(id);
  }

  const Graph& graph_;
  Uses uses_;
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
