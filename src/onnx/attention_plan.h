// What comes before an attention node and goes into ONNX's attention with it: the products of q, k and v,
// the norms of their heads, and the rotation.
#pragma once

#include <map>
#include <vector>

#include "graph/graph.h"
#include "graph/uses.h"

namespace tandem {

struct AttentionPlan {
  NodeId attention = -1;
  // The Linears of q, k and v; -1 where something else is in their place.
  NodeId q_linear = -1;
  NodeId k_linear = -1;
  NodeId v_linear = -1;
  // Their rotations; -1 unless both are there.
  NodeId q_rotary = -1;
  NodeId k_rotary = -1;
  // There is nothing between the Linears and attention but rotations of both q and k, or nothing.
  bool is_plain = false;

  bool rotates() const noexcept { return q_rotary >= 0; }
};

class AttentionPlans {
 public:
  explicit AttentionPlans(const Graph& graph);

  const AttentionPlan& of_attention(NodeId attention) const { return plans_.at(attention); }
  // The plan that a Linear is part of as q, k or v; null for any other node.
  const AttentionPlan* of_linear(NodeId linear) const;

 private:
  // By the attention's node.
  std::map<NodeId, AttentionPlan> plans_;
  // From Linears to attention.
  std::map<NodeId, NodeId> linears_;
};

}  // namespace tandem
