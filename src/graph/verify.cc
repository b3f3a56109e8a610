// Checks a whole graph: repeats add_node()'s checks for each node, and adds those that need the
// whole graph.
#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "base/error.h"
#include "graph/ops.h"

namespace tandem {
namespace {

bool defined(const Graph& graph, ValueId id) {
  return id >= 0 && static_cast<std::size_t>(id) < graph.values().size();
}

bool same_scale(const Value& a, const Value& b) {
  if (a.quantization.has_value() != b.quantization.has_value()) return false;
  return !a.quantization || (a.quantization->times_row_scale == b.quantization->times_row_scale &&
                             std::ranges::equal(a.quantization->scales.as<float>(),
                                                b.quantization->scales.as<float>()));
}

void verify_node(const Graph& graph, const Node& node, std::vector<bool>& written) {
  const auto part = info(node.op).error_part;
  std::vector<Value> inputs;
  for (const ValueId id : node.inputs) {
    if (!defined(graph, id) || !written[static_cast<std::size_t>(id)])
      fail(ErrorCode::kFormat, "[{}] {}: input %{} is read before it is written", part, node.name,
           id);
    inputs.push_back(graph.value(id));
  }
  const std::vector<Value> expected = infer_outputs({node.op, node.name, inputs, node.attributes});
  if (expected.size() != node.outputs.size())
    fail(ErrorCode::kFormat, "[{}] {}: expected {} outputs, got {}", part, node.name,
         expected.size(), node.outputs.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const ValueId id = node.outputs[i];
    if (!defined(graph, id) || written[static_cast<std::size_t>(id)])
      fail(ErrorCode::kFormat, "[{}] {}: expected an output that no other node writes, got %{}",
           part, node.name, id);
    const Value& got = graph.value(id);
    if (expected[i].width != got.width || expected[i].rows != got.rows ||
        expected[i].dtype != got.dtype)
      fail(ErrorCode::kFormat, "[{}] {}: expected an output of width {} in {}, got {} in {}", part,
           node.name, expected[i].width, to_string(expected[i].dtype), got.width,
           to_string(got.dtype));
    if (!same_scale(expected[i], got))
      fail(ErrorCode::kFormat, "[{}] {}: the scale of %{} is not that of its node", part, node.name,
           id);
    written[static_cast<std::size_t>(id)] = true;
  }
}

}  // namespace

void verify(const Graph& graph) {
  if (graph.inputs().empty()) fail(ErrorCode::kFormat, "[graph] the input is missing");
  if (graph.outputs().empty()) fail(ErrorCode::kFormat, "[graph] the output is missing");
  std::vector<bool> written(graph.values().size(), false);
  std::vector<bool> given(graph.values().size(), false);
  for (const ValueId id : graph.inputs()) {
    if (!defined(graph, id) || written[static_cast<std::size_t>(id)])
      fail(ErrorCode::kFormat, "[graph] input %{} is not a value of its own", id);
    written[static_cast<std::size_t>(id)] = true;
    given[static_cast<std::size_t>(id)] = true;
  }
  for (const Node& node : graph.nodes()) verify_node(graph, node, written);
  for (const ValueId id : graph.outputs()) {
    if (!defined(graph, id)) fail(ErrorCode::kFormat, "[graph] the output is missing");
    if (given[static_cast<std::size_t>(id)] || !written[static_cast<std::size_t>(id)])
      fail(ErrorCode::kFormat, "[graph] no node writes the output, %{} {}", id,
           graph.value(id).name);
  }
}

void verify_decoder(const Graph& graph) {
  verify(graph);
  std::vector<const Node*> attention(static_cast<std::size_t>(graph.layers()), nullptr);
  for (const Node& node : graph.nodes()) {
    if (node.op != Op::kGroupQueryAttention) continue;
    if (node.layer < 0)
      fail(ErrorCode::kFormat, "[{}] {}: expected to be in a layer", info(node.op).error_part,
           node.name);
    const Node*& first = attention[static_cast<std::size_t>(node.layer)];
    if (first != nullptr)
      fail(ErrorCode::kFormat, "[{}] {}: layer {} has an attention node already, {}",
           info(node.op).error_part, node.name, node.layer, first->name);
    first = &node;
  }
  for (const Node& node : graph.nodes())
    if (node.layer >= 0 && attention[static_cast<std::size_t>(node.layer)] == nullptr)
      fail(ErrorCode::kFormat, "[{}] {}: layer {} has no attention node", info(node.op).error_part,
           node.name, node.layer);
}

}  // namespace tandem
