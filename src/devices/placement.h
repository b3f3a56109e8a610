// Which device runs which operator in which phase, and why; and the segments that follow from it.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "devices/device.h"

namespace tandem {

struct PlacedNode {
  std::size_t device = 0;  // index into the devices given to place()
  std::string reason;      // why this device; "npu: …; cpu: …" where a preferred one refused
};

// A run of nodes on one device and of one decoder block.
struct Segment {
  std::size_t device = 0;
  NodeId begin = 0;
  NodeId end = 0;
};

struct Placement {
  Phase phase = Phase::kDecode;
  std::vector<std::string> devices;  // names, in order of preference
  std::vector<PlacedNode> nodes;     // one per node of the graph
  std::vector<Segment> segments;
};

// Gives each node to the first device that supports it. Throws kUnsupported naming the node if none
// does.
Placement place(const Graph& graph, Phase phase, std::span<const Device* const> devices);

// A table for people: operator, how many, device, reason; equal rows of all blocks joined.
std::string to_table(const Graph& graph, const Placement& placement);

}  // namespace tandem
