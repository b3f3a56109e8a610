// Extracts part of a graph as a graph of its own, which is what devices compile.
#pragma once

#include <span>
#include <vector>

#include "graph/graph.h"

namespace tandem {

struct Extracted {
  Graph graph;
  // The source's values that are the inputs and the outputs of the part, in its order.
  std::vector<ValueId> inputs;
  std::vector<ValueId> outputs;
};

// Extracts the nodes, which are in source order, keeping the row spaces. Inputs are the values that
// the nodes read but do not write, in the order of first use; outputs are the values read by nodes
// outside, the source's own outputs, and `wanted`. Throws kInvalidArgument if a node is listed
// twice or out of order.
Extracted extract(const Graph& source, std::span<const NodeId> nodes,
                  std::span<const ValueId> wanted = {});

}  // namespace tandem
