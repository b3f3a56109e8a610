// Whether a graph is whole: what add() checks for each node, once more, and what only the whole can
// show.
#include <cstddef>
#include <string>
#include <vector>

#include "base/error.h"
#include "graph/graph.h"
#include "graph/shape_inference.h"

namespace tandem {
namespace {

bool defined(const Graph& graph, ValueId id) {
  return id >= 0 && static_cast<std::size_t>(id) < graph.values().size();
}

void verify_node(const Graph& graph, const Node& node, std::vector<bool>& written) {
  const auto part = error_part(node.op);
  std::vector<Value> inputs;
  for (const ValueId id : node.inputs) {
    if (!defined(graph, id) || !written[static_cast<std::size_t>(id)])
      fail(ErrorCode::kFormat, "[{}] {}: input %{} is read before it is written", part, node.name,
           id);
    inputs.push_back(graph.value(id));
  }
  if (!defined(graph, node.output) || written[static_cast<std::size_t>(node.output)])
    fail(ErrorCode::kFormat, "[{}] {}: expected an output that no other node writes, got %{}", part,
         node.name, node.output);
  const Value expected = infer_output(node.op, node.name, inputs, node.attributes);
  const Value& got = graph.value(node.output);
  if (expected.width != got.width || expected.rows != got.rows || expected.dtype != got.dtype)
    fail(ErrorCode::kFormat, "[{}] {}: expected an output of width {}, got {}", part, node.name,
         expected.width, got.width);
  written[static_cast<std::size_t>(node.output)] = true;
}

// A layer's cache has one writer; without an attention node a layer would have no cache to read.
void verify_layers(const Graph& graph) {
  std::vector<const Node*> attention(static_cast<std::size_t>(graph.layers()), nullptr);
  for (const Node& node : graph.nodes()) {
    if (node.op != Op::kGroupQueryAttention) continue;
    if (node.layer < 0)
      fail(ErrorCode::kFormat, "[{}] {}: expected to be in a layer", error_part(node.op),
           node.name);
    const Node*& owner = attention[static_cast<std::size_t>(node.layer)];
    if (owner != nullptr)
      fail(ErrorCode::kFormat, "[{}] {}: layer {} has an attention node already, {}",
           error_part(node.op), node.name, node.layer, owner->name);
    owner = &node;
  }
  for (const Node& node : graph.nodes())
    if (node.layer >= 0 && attention[static_cast<std::size_t>(node.layer)] == nullptr)
      fail(ErrorCode::kFormat, "[{}] {}: layer {} has no attention node", error_part(node.op),
           node.name, node.layer);
}

}  // namespace

void verify(const Graph& graph) {
  if (!defined(graph, graph.input)) fail(ErrorCode::kFormat, "[graph] the input is missing");
  if (!defined(graph, graph.output)) fail(ErrorCode::kFormat, "[graph] the output is missing");
  std::vector<bool> written(graph.values().size(), false);
  written[static_cast<std::size_t>(graph.input)] = true;
  for (const Node& node : graph.nodes()) verify_node(graph, node, written);
  if (graph.output == graph.input || !written[static_cast<std::size_t>(graph.output)])
    fail(ErrorCode::kFormat, "[graph] no node writes the output, %{} {}", graph.output,
         graph.value(graph.output).name);
  verify_layers(graph);
}

}  // namespace tandem
