// Assigns each operator to a device in each phase, with the reason, and forms the resulting
// segments.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "devices/device.h"

namespace tandem {

struct PlacedNode {
  // Index into the devices given to place().
  std::size_t device = 0;
  // Why this device; "npu: …; cpu: …" if a preferred device refused.
  std::string reason;
};

// Nodes on one device and in one decoder block that run consecutively.
struct Segment {
  std::size_t device = 0;
  // In graph order.
  std::vector<NodeId> nodes;
  // How many of the segments right before this one it needs nothing from: it needs all those before
  // them, and can run beside these.
  std::size_t beside = 0;
};

struct Placement {
  PhaseSpec spec;
  // Device names, in order of preference.
  std::vector<std::string> devices;
  // One per node of the graph.
  std::vector<PlacedNode> nodes;
  // In an order in which they can run.
  std::vector<Segment> segments;
  // By device: the total cost of its nodes.
  std::vector<Cost> costs;
};

// Gives each claim to the first device that makes it, except for nodes already taken by an earlier
// device. Throws kUnsupported naming the node if no device takes it, kInternal if a device's offer
// contains nodes that don't exist.
Placement place(const Graph& graph, const PhaseSpec& spec, std::span<const Device* const> devices);

// A human-readable table: operator, count, device, reason; equal rows of all blocks are merged.
std::string to_table(const Graph& graph, const Placement& placement);

}  // namespace tandem
