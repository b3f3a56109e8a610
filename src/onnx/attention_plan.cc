// Follows q, k and v from attention up to the Linears that made them.
#include "onnx/attention_plan.h"

namespace tandem {
namespace {

struct Path {
  NodeId linear = -1;
  NodeId rotary = -1;
  bool has_norm = false;
};

// Values on the way must have one reader each: what others read must exist by itself.
Path follow(const Graph& graph, const Uses& uses, ValueId value) {
  Path path;
  while (uses.readers(value).size() == 1 && uses.producer(value) >= 0) {
    const NodeId producer = uses.producer(value);
    const Node& node = graph.node(producer);
    if (node.op == Op::kLinear) {
      path.linear = producer;
      break;
    }
    if (node.op == Op::kRotaryEmbedding) {
      path.rotary = producer;
    } else if (node.op == Op::kRmsNorm) {
      path.has_norm = true;
    } else {
      break;
    }
    value = node.inputs[0];
  }
  return path;
}

}  // namespace

AttentionPlans::AttentionPlans(const Graph& graph) {
  const Uses uses(graph);
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    if (node.op != Op::kGroupQueryAttention) continue;
    const Path q = follow(graph, uses, node.inputs[0]);
    const Path k = follow(graph, uses, node.inputs[1]);
    const Path v = follow(graph, uses, node.inputs[2]);
    AttentionPlan plan{.attention = id};
    plan.is_plain = !q.has_norm && !k.has_norm && (q.rotary >= 0) == (k.rotary >= 0);
    if (q.rotary >= 0 && k.rotary >= 0) {
      plan.q_rotary = q.rotary;
      plan.k_rotary = k.rotary;
    }
    // One product needs one input.
    const auto input_of = [&](NodeId linear) { return graph.node(linear).inputs[0]; };
    if (q.linear >= 0 && k.linear >= 0 && v.linear >= 0 &&
        input_of(q.linear) == input_of(k.linear) && input_of(q.linear) == input_of(v.linear)) {
      plan.q_linear = q.linear;
      plan.k_linear = k.linear;
      plan.v_linear = v.linear;
      for (const NodeId linear : {q.linear, k.linear, v.linear}) linears_[linear] = id;
    }
    plans_[id] = plan;
  }
}

const AttentionPlan* AttentionPlans::of_linear(NodeId linear) const {
  const auto found = linears_.find(linear);
  return found == linears_.end() ? nullptr : &plans_.at(found->second);
}

}  // namespace tandem
