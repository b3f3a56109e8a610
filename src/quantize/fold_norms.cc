// The pass fold_norms.
#include <algorithm>
#include <vector>

#include "graph/rewriter.h"
#include "graph/uses.h"
#include "quantize/linear_weights.h"
#include "quantize/passes.h"

namespace tandem {
namespace {

// True if all readers of the norm's output are Linears whose weights can absorb its gain. A
// per-head norm has no Linear after it.
bool can_fold(const Graph& graph, const Uses& uses, const Node& node) {
  if (node.op != Op::kRmsNorm || node.as<RmsNormAttributes>().heads != 1) return false;
  const auto readers = uses.readers(node.output());
  return !uses.is_output(node.output()) && !readers.empty() &&
         std::ranges::all_of(readers,
                             [&](NodeId id) { return float_weight(graph.node(id)) != nullptr; });
}

Tensor ones(std::int64_t width) {
  return Tensor::from_floats(std::vector<float>(static_cast<std::size_t>(width), 1.0F), {width});
}

}  // namespace

Graph fold_norms(const Graph& graph) {
  const Uses uses(graph);
  Rewriter rewriter(graph);
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    if (can_fold(graph, uses, node)) {
      auto norm = node.as<RmsNormAttributes>();
      norm.weight = ones(norm.weight.dim(0));
      rewriter.copy(id, std::move(norm));
      continue;
    }
    const FloatWeight* weight = float_weight(node);
    const NodeId before = weight == nullptr ? -1 : uses.producer(node.inputs[0]);
    if (before < 0 || !can_fold(graph, uses, graph.node(before))) {
      rewriter.copy(id);
      continue;
    }
    auto linear = node.as<LinearAttributes>();
    const Tensor& gain = graph.node(before).as<RmsNormAttributes>().weight;
    linear.weight = FloatWeight(scale_columns(weight->rows, gain.to_floats()));
    rewriter.copy(id, std::move(linear));
  }
  return std::move(rewriter).finish();
}

}  // namespace tandem
