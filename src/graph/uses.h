// The producer and the readers of each value of a graph.
#pragma once

#include <span>
#include <vector>

#include "graph/graph.h"

namespace tandem {

class Uses {
 public:
  // A snapshot of the graph; it does not follow later changes.
  explicit Uses(const Graph& graph);

  // The node that writes `value`; -1 for an input of the graph.
  NodeId producer(ValueId value) const { return producers_[static_cast<std::size_t>(value)]; }
  // The nodes that read `value`, in order, without duplicates.
  std::span<const NodeId> readers(ValueId value) const {
    return readers_[static_cast<std::size_t>(value)];
  }
  // Whether `value` is an output of the graph.
  bool is_output(ValueId value) const { return outputs_[static_cast<std::size_t>(value)]; }

 private:
  std::vector<NodeId> producers_;
  std::vector<std::vector<NodeId>> readers_;
  std::vector<bool> outputs_;
};

}  // namespace tandem
