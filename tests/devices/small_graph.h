// A decoder of random weights, small and of sizes that are multiples of little, and an executor in
// the plainest form: every value has memory of its own.
#pragma once

#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "devices/cpu/cpu_device.h"
#include "devices/npu/npu_device.h"
#include "devices/placement.h"
#include "kernels/cases.h"

namespace tandem::testing {

struct SmallSizes {
  std::int32_t layers = 2;
  std::int64_t heads = 4, kv_heads = 2, head_dim = 24;  // hidden size 96
  std::int64_t inner = 160;
  std::int64_t vocabulary = 70;
  bool bias = true;

  std::int64_t hidden() const { return heads * head_dim; }
};

enum class SmallWeights {
  kFloat,
  kInt4,
  kInt8
};  // of the Linears inside blocks; the head is float

// The same weights for the same arguments.
class SmallGraphBuilder {
 public:
  SmallGraphBuilder(const SmallSizes& sizes, SmallWeights kind)
      : sizes_(sizes), kind_(kind), random_(7) {}

  Graph build() {
    graph_.add_input("ids");
    const auto table =
        Tensor::from_floats(normal_floats(random_, sizes_.vocabulary * sizes_.hidden()),
                            {sizes_.vocabulary, sizes_.hidden()});
    ValueId x = graph_.add(Op::kEmbedding, "embed", -1, {graph_.input}, EmbeddingAttributes{table});
    for (layer_ = 0; layer_ < sizes_.layers; ++layer_) {
      x = graph_.add(Op::kAdd, name("attention_residual"), layer_, {x, attention(norm(x))});
      x = graph_.add(Op::kAdd, name("mlp_residual"), layer_, {x, mlp(norm(x))});
    }
    layer_ = -1;
    x = norm(graph_.add(Op::kSelectRows, "select", -1, {x}));
    graph_.output = graph_.add(
        Op::kLinear, "head", -1, {x},
        LinearAttributes{float_weight(random_, sizes_.vocabulary, sizes_.hidden(), DType::kF32)});
    verify(graph_);
    return std::move(graph_);
  }

 private:
  std::string name(const std::string& module) const {
    return "layers." + std::to_string(layer_) + "." + module;
  }
  ValueId norm(ValueId x) {
    const auto gain = normal_floats(random_, sizes_.hidden());
    return graph_.add(Op::kRmsNorm, name("norm"), layer_, {x},
                      RmsNormAttributes{Tensor::from_floats(gain, {sizes_.hidden()}), 1e-5F});
  }
  ValueId linear(const std::string& module, ValueId x, std::int64_t n) {
    const std::int64_t k = graph_.value(x).width;
    LinearAttributes attributes;
    if (kind_ == SmallWeights::kFloat) {
      attributes.weight = float_weight(random_, n, k, DType::kBF16);
    } else if (kind_ == SmallWeights::kInt4) {
      attributes.weight = int4_weight(random_, n, k, 32);
    } else {
      attributes.weight = int8_weight(random_, n, k);
    }
    if (sizes_.bias) attributes.bias = Tensor::from_floats(normal_floats(random_, n), {n});
    return graph_.add(Op::kLinear, name(module), layer_, {x}, std::move(attributes));
  }
  ValueId rotate(const std::string& module, ValueId x, std::int64_t heads) {
    RotaryAttributes rotary{.heads = heads, .head_dim = sizes_.head_dim};
    for (std::int64_t i = 0; i < sizes_.head_dim / 2; ++i)
      rotary.inverse_frequencies.push_back(1.0F / static_cast<float>(1 + i));
    return graph_.add(Op::kRotaryEmbedding, name(module), layer_, {x}, std::move(rotary));
  }
  ValueId attention(ValueId x) {
    const std::int64_t kv_width = sizes_.kv_heads * sizes_.head_dim;
    const ValueId q = linear("q", x, sizes_.hidden());
    const ValueId k = linear("k", x, kv_width);
    const ValueId v = linear("v", x, kv_width);
    const ValueId turned_q = rotate("q_rotary", q, sizes_.heads);
    const ValueId turned_k = rotate("k_rotary", k, sizes_.kv_heads);
    const AttentionAttributes attributes{.heads = sizes_.heads,
                                         .kv_heads = sizes_.kv_heads,
                                         .head_dim = sizes_.head_dim,
                                         .scale = 0.02F};
    return linear("o",
                  graph_.add(Op::kGroupQueryAttention, name("attention"), layer_,
                             {turned_q, turned_k, v}, attributes),
                  sizes_.hidden());
  }
  ValueId mlp(ValueId x) {
    const ValueId gate = linear("gate", x, sizes_.inner);
    const ValueId up = linear("up", x, sizes_.inner);
    const ValueId opened = graph_.add(Op::kSilu, name("act"), layer_, {gate});
    const ValueId product = graph_.add(Op::kMul, name("mul"), layer_, {opened, up});
    return linear("down", product, sizes_.hidden());
  }

  SmallSizes sizes_;
  SmallWeights kind_;
  Random random_;
  Graph graph_;
  std::int32_t layer_ = -1;
};

inline Graph small_graph(SmallWeights kind, const SmallSizes& sizes = {}) {
  return SmallGraphBuilder(sizes, kind).build();
}

inline std::vector<std::int32_t> random_ids(std::int64_t count, std::int64_t vocabulary,
                                            unsigned seed = 1) {
  Random random(seed);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  for (std::int32_t& id : ids) id = uniform(random, 0, static_cast<int>(vocabulary) - 1);
  return ids;
}

// Compiles and runs a graph with memory of its own for every value, filled with NaN before each
// run: what no operator wrote, and every padding row, is poison.
class PlainExecutor {
 public:
  PlainExecutor(const Graph& graph, Phase phase, std::span<const Device* const> devices,
                const CompileContext& context)
      : graph_(graph), placement_(place(graph, phase, devices)) {
    for (const Segment& segment : placement_.segments)
      programs_.push_back(
          devices[segment.device]->compile(graph, segment.begin, segment.end, context));
    for (const Value& value : graph.values()) {
      const std::int64_t rows =
          value.rows == Rows::kTokens ? context.max_rows : context.max_selected;
      memory_.emplace_back(rows * value.width);
      floats_.push_back(rows * value.width);
    }
  }

  std::vector<float> run(ThreadPool& pool, std::span<const std::int32_t> ids,
                         std::span<const SequenceSlice> slices,
                         std::span<const std::int32_t> selected) {
    std::vector<float*> values;
    for (std::size_t v = 0; v < memory_.size(); ++v) {
      std::fill_n(memory_[v].data(), floats_[v], std::numeric_limits<float>::quiet_NaN());
      values.push_back(memory_[v].data());
    }
    for (const auto& program : programs_) program->run({pool, ids, slices, selected, values});
    const auto count =
        static_cast<std::int64_t>(selected.size()) * graph_.value(graph_.output).width;
    const float* logits = memory_[static_cast<std::size_t>(graph_.output)].data();
    return {logits, logits + count};
  }

 private:
  const Graph& graph_;
  Placement placement_;
  std::vector<std::unique_ptr<Program>> programs_;
  std::vector<Aligned<float>> memory_;
  std::vector<std::int64_t> floats_;
};

}  // namespace tandem::testing
