// Which channels between two operators can be rescaled without changing what a graph computes:
// where one operator's output is divided by a factor for each channel, and the columns of the
// Linears that read it are multiplied by the same. Found from the graph alone, whatever the modules are called.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace tandem {

// What absorbs the division.
enum class Absorber : std::uint8_t {
  // An RmsNorm: its gain.
  kNorm,
  // A Linear read by a product of two values, the gate's other side: its rows and bias.
  kLinear,
  // The Linear of an attention's values: its rows and bias, shared by the query heads of a group.
  kValues,
};

struct ScalingGroup {
  std::int32_t layer = -1;
  // The value whose channels are rescaled, and the Linears that read it: nobody else does.
  ValueId value = -1;
  std::vector<NodeId> linears;
  Absorber absorber = Absorber::kNorm;
  NodeId absorbed_by = -1;
  // Query heads, key and value heads, and head_dim, for kValues.
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  // The value by which an error of these Linears is judged: of a norm's readers, what the last
  // Linear before the residual stream gives (the output of the attention, or of the MLP); else the
  // output of the only one.
  ValueId judged = -1;
  // The nodes from `value` to `judged`, in order.
  std::vector<NodeId> nodes;
};

// In the order of the graph. Linears whose weights are not float are in none, nor are those outside
// decoder blocks.
std::vector<ScalingGroup> find_scaling_groups(const Graph& graph);

// For kValues: of a factor for each channel of the query heads, the largest of those that share a
// channel of the values; [kv_heads * head_dim].
std::vector<float> shared_factors(const ScalingGroup& group, const std::vector<float>& factors);
// For kValues: those, repeated for each query head; else the factors as they are.
std::vector<float> expanded_factors(const ScalingGroup& group, const std::vector<float>& factors);

// The graph with each group's channels divided by its factors ([width of its value], all above 0),
// in the order given: gains, rows and biases divided, columns multiplied. With a type other than
// F32, each product is rounded to it. A group with an empty list stays.
Graph rescale(const Graph& graph, const std::vector<ScalingGroup>& groups,
              const std::vector<std::vector<float>>& factors, DType dtype = DType::kF32);

}  // namespace tandem
