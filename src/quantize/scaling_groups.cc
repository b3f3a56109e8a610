// Finding the groups, and folding their factors.
#include "quantize/scaling_groups.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "graph/rewriter.h"
#include "graph/uses.h"
#include "quantize/linear_weights.h"
#include "tensor/half.h"

namespace tandem {
namespace {

class Finder {
 public:
  explicit Finder(const Graph& graph) : graph_(graph), uses_(graph) {}

  std::vector<ScalingGroup> find() const {
    std::vector<ScalingGroup> groups;
    for (NodeId id = 0; id < static_cast<NodeId>(graph_.nodes().size()); ++id)
      if (auto group = at(id)) groups.push_back(std::move(*group));
    return groups;
  }

 private:
  // The group of what this node computes.
  std::optional<ScalingGroup> at(NodeId id) const {
    const Node& node = graph_.node(id);
    if (node.layer < 0 || node.outputs.size() != 1 || uses_.is_output(node.output())) return {};
    const auto readers = uses_.readers(node.output());
    ScalingGroup group{.layer = node.layer, .value = node.output()};
    for (const NodeId reader : readers) {
      if (float_weight(graph_.node(reader)) == nullptr) return {};
      group.linears.push_back(reader);
    }
    if (readers.empty() || !absorb(id, group)) return {};
    if (group.absorber == Absorber::kNorm) {
      if (!judge(group)) return {};
    } else {
      if (readers.size() != 1) return {};
      group.nodes = {readers[0]};
      group.judged = graph_.node(readers[0]).output();
    }
    return group;
  }

  bool absorb(NodeId id, ScalingGroup& group) const {
    const Node& node = graph_.node(id);
    if (node.op == Op::kRmsNorm && node.as<RmsNormAttributes>().heads == 1) {
      group.absorbed_by = id;
      return true;
    }
    if (node.op == Op::kGroupQueryAttention) {
      const auto& attention = node.as<AttentionAttributes>();
      group.absorber = Absorber::kValues;
      group.heads = attention.heads;
      group.kv_heads = attention.kv_heads;
      group.head_dim = attention.head_dim;
      group.absorbed_by = linear_of(node.inputs[2], id);
    }
    if (node.op == Op::kMul) {
      group.absorber = Absorber::kLinear;
      for (const ValueId input : node.inputs)
        if (group.absorbed_by < 0) group.absorbed_by = linear_of(input, id);
    }
    return group.absorbed_by >= 0;
  }

  // The float Linear that computes `value` for `reader` alone; -1 if there is none.
  NodeId linear_of(ValueId value, NodeId reader) const {
    const NodeId producer = uses_.producer(value);
    const bool fits = producer >= 0 && float_weight(graph_.node(producer)) != nullptr &&
                      uses_.readers(value).size() == 1 && uses_.readers(value)[0] == reader &&
                      !uses_.is_output(value);
    return fits ? producer : -1;
  }

  // Follows the value up to where it joins what went around it.
  bool judge(ScalingGroup& group) const {
    std::vector<bool> depends(graph_.values().size());
    const auto mark = [&](ValueId value) { depends[static_cast<std::size_t>(value)] = true; };
    mark(group.value);
    ValueId joined = -1;
    for (NodeId id = 0; id < static_cast<NodeId>(graph_.nodes().size()) && joined < 0; ++id) {
      const Node& node = graph_.node(id);
      if (node.layer != group.layer) continue;
      const auto is_in = [&](ValueId value) { return depends[static_cast<std::size_t>(value)]; };
      const auto dependent = std::ranges::count_if(node.inputs, is_in);
      if (dependent == 0) continue;
      if (node.op == Op::kAdd && dependent == 1) {
        joined = *std::ranges::find_if(node.inputs, is_in);
        break;
      }
      for (const ValueId output : node.outputs) mark(output);
      group.nodes.push_back(id);
    }
    // A norm between the last Linear and the residual stream is not judged.
    while (joined >= 0 && graph_.node(uses_.producer(joined)).op != Op::kLinear &&
           graph_.node(uses_.producer(joined)).inputs.size() == 1)
      joined = graph_.node(uses_.producer(joined)).inputs[0];
    if (joined < 0) return false;
    const auto last = std::ranges::find(group.nodes, uses_.producer(joined));
    if (last == group.nodes.end()) return false;
    group.nodes.erase(last + 1, group.nodes.end());
    group.judged = joined;
    return true;
  }

  const Graph& graph_;
  const Uses uses_;
};

// A vector of the graph divided by the factors.
Tensor divided(const Tensor& values, const std::vector<float>& divisors, DType dtype) {
  std::vector<float> result = values.to_floats();
  for (std::size_t i = 0; i < result.size(); ++i)
    result[i] = round_to(dtype, result[i] / divisors[i]);
  return Tensor::from_floats(result, values.shape());
}

}  // namespace

std::vector<ScalingGroup> find_scaling_groups(const Graph& graph) { return Finder(graph).find(); }

std::vector<float> shared_factors(const ScalingGroup& group, const std::vector<float>& factors) {
  const auto d = static_cast<std::size_t>(group.head_dim);
  const auto repeats = static_cast<std::size_t>(group.heads / group.kv_heads);
  std::vector<float> shared(static_cast<std::size_t>(group.kv_heads) * d);
  for (std::size_t i = 0; i < factors.size(); ++i) {
    float& largest = shared[i / (repeats * d) * d + i % d];
    largest = std::max(largest, factors[i]);
  }
  return shared;
}

std::vector<float> expanded_factors(const ScalingGroup& group, const std::vector<float>& factors) {
  if (group.absorber != Absorber::kValues) return factors;
  const std::vector<float> shared = shared_factors(group, factors);
  const auto d = static_cast<std::size_t>(group.head_dim);
  const auto repeats = static_cast<std::size_t>(group.heads / group.kv_heads);
  std::vector<float> expanded(factors.size());
  for (std::size_t i = 0; i < expanded.size(); ++i)
    expanded[i] = shared[i / (repeats * d) * d + i % d];
  return expanded;
}

Graph rescale(const Graph& graph, const std::vector<ScalingGroup>& groups,
              const std::vector<std::vector<float>>& factors, DType dtype) {
  std::map<NodeId, Attributes> changed;
  const auto attributes = [&](NodeId id) -> Attributes& {
    return changed.try_emplace(id, graph.node(id).attributes).first->second;
  };
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const ScalingGroup& group = groups[g];
    if (factors[g].empty()) continue;
    if (group.absorber == Absorber::kNorm) {
      auto& norm = std::get<RmsNormAttributes>(attributes(group.absorbed_by));
      norm.weight = divided(norm.weight, factors[g], dtype);
    } else {
      const std::vector<float> rows =
          group.absorber == Absorber::kValues ? shared_factors(group, factors[g]) : factors[g];
      auto& linear = std::get<LinearAttributes>(attributes(group.absorbed_by));
      linear.weight = FloatWeight(
          round_rows(divide_rows(std::get<FloatWeight>(linear.weight).rows, rows), dtype));
      if (!linear.bias.empty()) linear.bias = divided(linear.bias, rows, dtype);
    }
    for (const NodeId id : group.linears) {
      auto& linear = std::get<LinearAttributes>(attributes(id));
      linear.weight =
          FloatWeight(round_rows(scale_columns(std::get<FloatWeight>(linear.weight).rows,
                                               expanded_factors(group, factors[g])),
                                 dtype));
    }
  }
  Rewriter rewriter(graph);
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const auto found = changed.find(id);
    if (found == changed.end()) {
      rewriter.copy(id);
    } else {
      rewriter.copy(id, std::move(found->second));
    }
  }
  return std::move(rewriter).finish();
}

}  // namespace tandem
