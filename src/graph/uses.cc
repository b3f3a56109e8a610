// Collects the producers and readers of all values in one pass over the nodes.
#include "graph/uses.h"

namespace tandem {

Uses::Uses(const Graph& graph)
    : producers_(graph.values().size(), -1),
      readers_(graph.values().size()),
      outputs_(graph.values().size(), false) {
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    for (const ValueId input : node.inputs) {
      auto& readers = readers_[static_cast<std::size_t>(input)];
      if (readers.empty() || readers.back() != id) readers.push_back(id);
    }
    for (const ValueId output : node.outputs) producers_[static_cast<std::size_t>(output)] = id;
  }
  for (const ValueId output : graph.outputs()) outputs_[static_cast<std::size_t>(output)] = true;
}

}  // namespace tandem
