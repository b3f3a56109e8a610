// Values that are added, normed and selected have one basis; the stream is that of the embedding.
#include "quantize/residual_stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "quantize/linear_weights.h"

namespace tandem {
namespace {

// Values joined because they have one basis.
class Bases {
 public:
  explicit Bases(std::size_t values) : parents_(values) {
    std::iota(parents_.begin(), parents_.end(), 0);
  }
  ValueId of(ValueId value) {
    while (parent(value) != value) value = parent(value) = parent(parent(value));
    return value;
  }
  void join(ValueId a, ValueId b) { parent(of(a)) = of(b); }

 private:
  ValueId& parent(ValueId value) { return parents_[static_cast<std::size_t>(value)]; }

  std::vector<ValueId> parents_;
};

bool is_whole_norm(const Node& node) {
  return node.op == Op::kRmsNorm && node.as<RmsNormAttributes>().heads == 1;
}

bool has_gain(const Node& norm) {
  const std::vector<float> gain = norm.as<RmsNormAttributes>().weight.to_floats();
  return std::ranges::any_of(gain, [](float g) { return g != 1.0F; });
}

// Why a node can't be in the stream; empty if it can.
std::string objection_to(const Node& node) {
  switch (node.op) {
    case Op::kEmbedding:
    case Op::kAdd:
    case Op::kSelectRows:
      return {};
    case Op::kLinear:
      return float_weight(node) != nullptr ? "" : "its weight is quantized: expected a float one";
    case Op::kRmsNorm:
      if (!is_whole_norm(node)) return "it norms parts of the residual stream";
      return has_gain(node) ? "its gain is in no Linear, so that it would have to be rotated, too"
                            : "";
    default:
      return fmt::format("{} of the residual stream is not the same in another basis",
                         to_string(node.op));
  }
}

}  // namespace

ResidualStream find_residual_stream(const Graph& graph) {
  Bases bases(graph.values().size());
  ResidualStream stream;
  ValueId origin = -1;
  for (const Node& node : graph.nodes()) {
    if (node.op == Op::kAdd) bases.join(node.inputs[0], node.inputs[1]);
    if (node.op == Op::kAdd || node.op == Op::kSelectRows || is_whole_norm(node))
      bases.join(node.inputs[0], node.output());
    if (node.op == Op::kEmbedding && origin < 0) origin = node.output();
  }
  if (origin < 0) return stream;
  stream.width = graph.value(origin).width;
  const auto is_inside = [&](ValueId value) { return bases.of(value) == bases.of(origin); };
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    const bool reads = std::ranges::any_of(node.inputs, is_inside);
    const bool writes = std::ranges::any_of(node.outputs, is_inside);
    if (!reads && !writes) continue;
    if (node.op == Op::kEmbedding) stream.embeddings.push_back(id);
    if (node.op == Op::kLinear && reads) stream.readers.push_back(id);
    if (node.op == Op::kLinear && writes) stream.writers.push_back(id);
    if (stream.objection.empty())
      if (const std::string objection = objection_to(node); !objection.empty())
        stream.objection = fmt::format("{}: {}", node.name, objection);
  }
  for (const ValueId output : graph.outputs())
    if (stream.objection.empty() && is_inside(output))
      stream.objection = fmt::format("{}: the residual stream is an output of the graph",
                                     graph.value(output).name);
  return stream;
}

}  // namespace tandem
