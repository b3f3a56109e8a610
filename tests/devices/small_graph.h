// A decoder of random weights, small and of sizes that are multiples of little, and an executor in
// the plainest form: every value has memory of its own.
#pragma once

#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "devices/buffers_of.h"
#include "devices/cpu/cpu_device.h"
#include "devices/no_panel_cache.h"
#include "devices/npu/npu_device.h"
#include "devices/placement.h"
#include "graph/extract.h"
#include "graph/int8_nodes.h"
#include "graph/shadow.h"
#include "kernels/cases.h"

namespace tandem::testing {

struct SmallSizes {
  std::int32_t layers = 2;
  std::int64_t heads = 4, kv_heads = 2, head_dim = 24;  // hidden size 96
  std::int64_t inner = 160;
  std::int64_t vocabulary = 70;
  bool bias = true;
  // Whether queries and keys are rotated, and the blocks of a Hadamard transform behind that; 0:
  // none.
  bool rotates = true;
  std::int64_t hadamard = 0;
  // Each Linear on static int8 codes has a shadow of all channels.
  bool shadows = false;

  std::int64_t hidden() const { return heads * head_dim; }
};

// Of the Linears inside blocks; the head is float. Int8 with static activations, or with a scale
// for each token.
enum class SmallWeights { kFloat, kInt4, kInt8, kDynamicInt8 };
inline constexpr SmallWeights kAllSmallWeights[] = {
    SmallWeights::kFloat, SmallWeights::kInt4, SmallWeights::kInt8, SmallWeights::kDynamicInt8};

// The same weights for the same arguments.
class SmallGraphBuilder {
 public:
  SmallGraphBuilder(const SmallSizes& sizes, SmallWeights kind)
      : sizes_(sizes), kind_(kind), random_(7) {}

  Graph build() {
    const ValueId ids = graph_.add_input({.name = "ids", .dtype = DType::kI32, .width = 1});
    const ValueId selected = graph_.add_input({.name = "selected_rows",
                                               .dtype = DType::kI32,
                                               .rows = graph_.row_space("selected"),
                                               .width = 1});
    const auto table =
        Tensor::from_floats(normal_floats(random_, sizes_.vocabulary * sizes_.hidden()),
                            {sizes_.vocabulary, sizes_.hidden()});
    ValueId x = graph_.add(Op::kEmbedding, "embed", -1, {ids}, EmbeddingAttributes{table});
    RotaryAnglesAttributes angles;
    for (std::int64_t i = 0; i < sizes_.head_dim / 2; ++i)
      angles.inverse_frequencies.push_back(1.0F / static_cast<float>(1 + i));
    angles_ = graph_.add(Op::kRotaryAngles, "angles", -1, {ids}, std::move(angles));
    for (layer_ = 0; layer_ < sizes_.layers; ++layer_) {
      x = graph_.add(Op::kAdd, name("attention_residual"), layer_, {x, attention(norm(x))});
      x = graph_.add(Op::kAdd, name("mlp_residual"), layer_, {x, mlp(norm(x))});
    }
    layer_ = -1;
    x = norm(graph_.add(Op::kSelectRows, "select", -1, {x, selected}));
    x = graph_.add(
        Op::kLinear, "head", -1, {x},
        LinearAttributes{float_weight(random_, sizes_.vocabulary, sizes_.hidden(), DType::kF32)});
    graph_.set_outputs({x});
    verify_decoder(graph_);
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
  // Linears that are given the same x share its codes.
  ValueId linear(const std::string& module, ValueId x, std::int64_t n) {
    const std::int64_t k = graph_.value(x).width;
    Weight weight;
    if (kind_ == SmallWeights::kFloat) {
      weight = float_weight(random_, n, k, DType::kBF16);
    } else if (kind_ == SmallWeights::kInt4) {
      weight = int4_weight(random_, n, k, 32);
    } else {
      weight = int8_weight(random_, n, k);
    }
    Tensor bias;
    if (sizes_.bias) bias = Tensor::from_floats(normal_floats(random_, n), {n});
    if (kind_ == SmallWeights::kFloat || kind_ == SmallWeights::kInt4)
      return graph_.add(Op::kLinear, name(module), layer_, {x},
                        LinearAttributes{std::move(weight), std::move(bias)});
    auto& channels = std::get<ChannelCodes>(weight);
    if (x != quantized_) {
      quantized_ = x;
      codes_ = kind_ == SmallWeights::kInt8
                   ? std::vector{graph_.add(Op::kQuantize, name(module) + ".quantize", layer_, {x},
                                            QuantizeAttributes{kScale})}
                   : graph_.add_node(Op::kDynamicQuantize, name(module) + ".quantize", layer_, {x});
    }
    if (kind_ == SmallWeights::kInt8) {
      ShadowLinearAttributes shadow = make_whole_shadow(channels);
      shadow.scale = kScale;
      const ValueId product = add_static_int8(graph_, name(module), layer_, codes_[0],
                                              std::move(channels), std::move(bias));
      if (!sizes_.shadows) return product;
      const ValueId clipped =
          graph_.add(Op::kShadowLinear, name(module) + ".shadow", layer_, {x}, std::move(shadow));
      return graph_.add(Op::kAdd, name(module) + ".sum", layer_, {product, clipped});
    }
    return add_dynamic_int8(graph_, name(module), layer_, codes_[0], codes_[1], std::move(channels),
                            std::move(bias));
  }
  ValueId rotate(const std::string& module, ValueId x, std::int64_t heads) {
    if (sizes_.rotates)
      x = graph_.add(Op::kRotaryEmbedding, name(module), layer_, {x, angles_},
                     RotaryAttributes{.heads = heads, .head_dim = sizes_.head_dim});
    if (sizes_.hadamard == 0) return x;
    return graph_.add(Op::kHadamard, name(module) + ".hadamard", layer_, {x},
                      HadamardAttributes{sizes_.hadamard});
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

  // So small that some values are clipped.
  static constexpr float kScale = 0.05F;

  SmallSizes sizes_;
  SmallWeights kind_;
  Random random_;
  Graph graph_;
  std::int32_t layer_ = -1;
  ValueId angles_ = -1;
  // The value that was quantized last, and its codes.
  ValueId quantized_ = -1;
  std::vector<ValueId> codes_;
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

// Compiles and runs a graph with memory of its own for every value that leaves a segment, poisoned
// before each run: what no operator wrote, and every padding row, is NaN.
class PlainExecutor {
 public:
  // `max_rows` of the row spaces behind the tokens', which have spec.rows.
  PlainExecutor(const Graph& graph, const PhaseSpec& spec, std::span<const Device* const> devices,
                ThreadPool& pool, PanelCache& panels, std::vector<std::int64_t> max_rows)
      : graph_(graph), placement_(place(graph, spec, devices)) {
    max_rows.insert(max_rows.begin(), spec.rows);
    for (const Segment& segment : placement_.segments) {
      parts_.push_back(extract(graph, segment.nodes));
      programs_.push_back(
          devices[segment.device]->compile(parts_.back().graph, {pool, panels, spec, max_rows}));
    }
    for (const Value& value : graph.values())
      memory_.emplace_back(value, max_rows[static_cast<std::size_t>(value.rows)]);
  }

  // The output's rows.
  std::vector<float> run(ThreadPool& pool, std::span<const std::int32_t> ids,
                         std::span<const SequenceSlice> slices,
                         std::span<const std::int32_t> selected) {
    for (Buffer& buffer : memory_) buffer.fill(kPoison);
    buffer(graph_.inputs()[0]).write(std::vector<double>(ids.begin(), ids.end()));
    buffer(graph_.inputs()[1]).write(std::vector<double>(selected.begin(), selected.end()));
    const std::vector<std::int64_t> rows = {static_cast<std::int64_t>(ids.size()),
                                            static_cast<std::int64_t>(selected.size())};
    for (std::size_t s = 0; s < programs_.size(); ++s) {
      Aligned<std::byte> scratch(programs_[s]->needs().scratch_bytes, kPoison);
      const auto inputs = pointers(parts_[s].inputs), outputs = pointers(parts_[s].outputs);
      programs_[s]->run({pool, rows, slices, inputs, outputs, scratch.data()});
    }
    const ValueId output = graph_.outputs()[0];
    const auto numbers =
        buffer(output).read(rows[static_cast<std::size_t>(graph_.value(output).rows)]);
    return {numbers.begin(), numbers.end()};
  }

 private:
  Buffer& buffer(ValueId id) { return memory_[static_cast<std::size_t>(id)]; }
  std::vector<std::byte*> pointers(const std::vector<ValueId>& ids) {
    std::vector<std::byte*> found;
    for (const ValueId id : ids) found.push_back(buffer(id).data());
    return found;
  }

  const Graph& graph_;
  Placement placement_;
  std::vector<Extracted> parts_;
  std::vector<std::unique_ptr<Program>> programs_;
  std::vector<Buffer> memory_;
};

// Blocks of one sequence with the layers of `sizes`, poisoned.
class Blocks {
 public:
  Blocks(const SmallSizes& sizes, std::int64_t tokens, DType dtype)
      : dtype_(dtype), layer_bytes_(kv_block_bytes(sizes.kv_heads, sizes.head_dim, dtype)) {
    for (std::int64_t t = 0; t < tokens; t += kKvBlockTokens) {
      memory_.emplace_back(sizes.layers * layer_bytes_, kPoison);
      pointers_.push_back(memory_.back().data());
    }
  }
  SequenceSlice slice(std::int64_t first_row, std::int64_t rows, std::int64_t position) const {
    return {first_row, rows, position, {pointers_, layer_bytes_, dtype_}};
  }

 private:
  DType dtype_;
  std::int64_t layer_bytes_;
  std::vector<Aligned<std::byte>> memory_;
  std::vector<std::byte*> pointers_;
};

}  // namespace tandem::testing
