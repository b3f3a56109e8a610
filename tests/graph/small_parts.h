// Small attributes, and a graph to hang nodes on.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "graph/graph.h"
#include "support.h"

namespace tandem::testing {

inline Tensor ones(const Shape& shape) {
  return Tensor::from_floats(
      std::vector<float>(static_cast<std::size_t>(element_count(shape)), 1.0F), shape);
}

inline EmbeddingAttributes table(std::int64_t vocabulary, std::int64_t width) {
  return {.table = ones({vocabulary, width})};
}

inline LinearAttributes weight(std::int64_t n, std::int64_t k) {
  return {FloatWeight{ones({n, k})}, {}};
}

inline RmsNormAttributes gain(std::int64_t width) { return {ones({width}), 1e-6F}; }

inline RotaryAnglesAttributes angles(std::size_t pairs) {
  return {.inverse_frequencies = std::vector<float>(pairs, 1.0F)};
}

inline RotaryAttributes rotary(std::int64_t heads, std::int64_t head_dim) {
  return {.heads = heads, .head_dim = head_dim};
}

inline AttentionAttributes attention(std::int64_t heads, std::int64_t kv_heads,
                                     std::int64_t head_dim) {
  return {.heads = heads, .kv_heads = kv_heads, .head_dim = head_dim, .scale = 0.5F};
}

// Codes of 1 with the given scales: one, or one for each channel.
inline ChannelCodes int8(std::int64_t n, std::int64_t k, const std::vector<float>& scales) {
  ChannelCodes weight{.n = n, .k = k};
  std::byte* codes = nullptr;
  weight.codes = Tensor::allocate(DType::kI8, {n, k}, &codes);
  for (std::int64_t i = 0; i < n * k; ++i) codes[i] = std::byte{1};
  weight.scales = Tensor::from_floats(scales, {static_cast<std::int64_t>(scales.size())});
  return weight;
}

inline Value row_numbers(Graph& graph, const std::string& space) {
  return {
      .name = space + "_rows", .dtype = DType::kI32, .rows = graph.row_space(space), .width = 1};
}

// A graph with a value of 8 columns to hang nodes on.
struct Start {
  Graph graph;
  ValueId ids = graph.add_input({.name = "input_ids", .dtype = DType::kI32, .width = 1});
  ValueId selected = graph.add_input(row_numbers(graph, "selected"));
  ValueId x = graph.add(Op::kEmbedding, "embed", -1, {ids}, table(5, 8));

  // The error of adding `op` on `inputs`.
  std::string reject(Op op, std::vector<ValueId> inputs, Attributes attributes = {},
                     std::int32_t layer = 0) {
    const std::size_t nodes = graph.nodes().size();
    const std::size_t values = graph.values().size();
    const std::string message = error_of(
        [&] { graph.add_node(op, "node", layer, std::move(inputs), std::move(attributes)); });
    EXPECT_EQ(graph.nodes().size(), nodes) << "a rejected node stayed in the graph";
    EXPECT_EQ(graph.values().size(), values);
    return message;
  }
};

// One block without norms and MLP: enough for every rule of a whole graph.
inline Graph small_block() {
  Start start;
  Graph& g = start.graph;
  const ValueId turn = g.add(Op::kRotaryAngles, "angles", -1, {start.ids}, angles(2));
  const ValueId q = g.add(Op::kLinear, "q", 0, {start.x}, weight(8, 8));
  const ValueId k = g.add(Op::kLinear, "k", 0, {start.x}, weight(4, 8));
  const ValueId turned = g.add(Op::kRotaryEmbedding, "k_rotary", 0, {k, turn}, rotary(1, 4));
  const ValueId context =
      g.add(Op::kGroupQueryAttention, "attn", 0, {q, turned, k}, attention(2, 1, 4));
  const ValueId sum = g.add(Op::kAdd, "residual", 0, {start.x, context});
  const ValueId last = g.add(Op::kSelectRows, "select", -1, {sum, start.selected});
  g.set_outputs({g.add(Op::kLinear, "head", -1, {last}, weight(5, 8))});
  return g;
}

}  // namespace tandem::testing
