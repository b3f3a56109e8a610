// Copies the selected nodes and determines the inputs and outputs of the part.
#include "graph/extract.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "graph/uses.h"

namespace tandem {

Extracted extract(const Graph& source, std::span<const NodeId> nodes,
                  std::span<const ValueId> wanted) {
  std::vector<bool> inside(source.nodes().size(), false);
  NodeId last = -1;
  for (const NodeId id : nodes) {
    if (id <= last || static_cast<std::size_t>(id) >= inside.size())
      fail(ErrorCode::kInvalidArgument,
           "[extract] node {} after {}: expected nodes of the graph in its order", id, last);
    inside[static_cast<std::size_t>(id)] = true;
    last = id;
  }
  const Uses uses(source);
  Extracted part;
  for (const std::string& name : source.row_spaces()) part.graph.row_space(name);
  // Indexed by value of the source.
  std::vector<ValueId> stands_for(source.values().size(), -1);
  for (const NodeId id : nodes) {
    for (const ValueId input : source.node(id).inputs) {
      ValueId& now = stands_for[static_cast<std::size_t>(input)];
      const NodeId producer = uses.producer(input);
      if (now >= 0 || (producer >= 0 && inside[static_cast<std::size_t>(producer)])) continue;
      now = part.graph.add_input(source.value(input));
      part.inputs.push_back(input);
    }
  }
  std::vector<ValueId> outputs;
  for (const NodeId id : nodes) {
    const Node& node = source.node(id);
    std::vector<ValueId> inputs;
    for (const ValueId input : node.inputs)
      inputs.push_back(stands_for[static_cast<std::size_t>(input)]);
    const auto& written =
        part.graph.add_node(node.op, node.name, node.layer, std::move(inputs), node.attributes);
    for (std::size_t i = 0; i < written.size(); ++i) {
      const ValueId old = node.outputs[i];
      stands_for[static_cast<std::size_t>(old)] = written[i];
      const bool read_outside = std::ranges::any_of(uses.readers(old), [&](NodeId reader) {
        return !inside[static_cast<std::size_t>(reader)];
      });
      if (!read_outside && !uses.is_output(old) && std::ranges::find(wanted, old) == wanted.end())
        continue;
      part.outputs.push_back(old);
      outputs.push_back(written[i]);
    }
  }
  part.graph.set_outputs(std::move(outputs));
  return part;
}

}  // namespace tandem
