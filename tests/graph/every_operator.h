// A decoder of one block, small and of random weights, in which every operator and every kind of
// weight occurs.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "graph/graph.h"
#include "graph/int8_nodes.h"
#include "graph/shadow.h"
#include "tensor/hadamard_factor.h"
#include "tensor/half.h"

namespace tandem::testing {

class EveryOperator {
 public:
  static constexpr std::int64_t kVocabulary = 37;
  static constexpr std::int64_t kHeads = 4, kKvHeads = 2, kHeadDim = 16;
  static constexpr std::int64_t kHidden = kHeads * kHeadDim, kInner = 96;

  // Outputs: logits, and the context of the attention. The same for every call.
  static Graph build() { return EveryOperator().run(); }

 private:
  Graph run() {
    const ValueId ids = graph_.add_input({.name = "input_ids", .dtype = DType::kI32, .width = 1});
    const ValueId selected = graph_.add_input({.name = "selected_rows",
                                               .dtype = DType::kI32,
                                               .rows = graph_.row_space("selected"),
                                               .width = 1});
    ValueId x = graph_.add(Op::kEmbedding, "embed", -1, {ids},
                           EmbeddingAttributes{floats({kVocabulary, kHidden}), 2});
    const ValueId context = attention(x, angles(ids));
    x = graph_.add(Op::kAdd, "residual", 0, {x, static_int8("o", context, kHidden)});
    x = graph_.add(Op::kAdd, "mlp_residual", 0, {x, mlp(norm("mlp_norm", 0, x, 1))});
    x = graph_.add(Op::kSelectRows, "select", -1, {x, selected});
    x = graph_.add(Op::kLinear, "head", -1, {norm("norm", -1, x, 1)},
                   LinearAttributes{FloatWeight(floats({kVocabulary, kHidden})), {}});
    x = graph_.add(Op::kSoftcap, "cap", -1, {x}, SoftcapAttributes{30});
    graph_.set_outputs({x, context});
    verify_decoder(graph_);
    return std::move(graph_);
  }

  // Longer sequences than 6 tokens rotate by other frequencies.
  ValueId angles(ValueId ids) {
    RotaryAnglesAttributes attributes{.attention_factor = 1.25F};
    for (int i = 0; i < kHeadDim / 4; ++i) {
      attributes.inverse_frequencies.push_back(1 / static_cast<float>(1 + i));
      attributes.extension.inverse_frequencies.push_back(0.5F / static_cast<float>(1 + i));
    }
    attributes.extension.original_context = 6;
    return graph_.add(Op::kRotaryAngles, "angles", -1, {ids}, std::move(attributes));
  }

  ValueId attention(ValueId x, ValueId angles) {
    const ValueId n = norm("attention_norm", 0, x, 1);
    const std::int64_t kv_width = kKvHeads * kHeadDim;
    ValueId q =
        graph_.add(Op::kLinear, "q", 0, {n},
                   LinearAttributes{FloatWeight(halves({kHidden, kHidden})), floats({kHidden})});
    ValueId k = graph_.add(Op::kLinear, "k", 0, {n},
                           LinearAttributes{groups(kv_width, kHidden, 4, false, true), {}});
    const ValueId v = graph_.add(Op::kLinear, "v", 0, {n},
                                 LinearAttributes{groups(kv_width, kHidden, 8, true, false), {}});
    q = norm("q_norm", 0, q, kHeads);
    q = graph_.add(Op::kRotaryEmbedding, "q_rotary", 0, {q, angles},
                   RotaryAttributes{.heads = kHeads, .head_dim = kHeadDim});
    k = graph_.add(Op::kRotaryEmbedding, "k_rotary", 0, {k, angles},
                   RotaryAttributes{.heads = kKvHeads, .head_dim = kHeadDim});
    return graph_.add(Op::kGroupQueryAttention, "attention", 0, {q, k, v},
                      AttentionAttributes{.heads = kHeads,
                                          .kv_heads = kKvHeads,
                                          .head_dim = kHeadDim,
                                          .scale = 0.25F,
                                          .window = 5,
                                          .softcap = 20,
                                          .k_scales = positive({kv_width}),
                                          .v_scales = positive({kv_width}),
                                          .int16_scales = positive({3})});
  }

  ValueId mlp(ValueId x) {
    const std::vector<ValueId> codes = graph_.add_node(Op::kDynamicQuantize, "dynamic", 0, {x});
    ValueId gate = add_dynamic_int8(graph_, "gate", 0, codes[0], codes[1],
                                    channels(kInner, kHidden, {}), floats({kInner}));
    ValueId up = graph_.add(Op::kLinear, "up", 0, {x},
                            LinearAttributes{channels(kInner, kHidden, {0.01F}), {}});
    gate = graph_.add(Op::kSilu, "silu", 0, {gate});
    up = graph_.add(Op::kGelu, "gelu", 0, {up});
    const ValueId product = graph_.add(Op::kMul, "mul", 0, {gate, up});
    const ValueId blocks =
        graph_.add(Op::kHadamard, "hadamard", 0, {product}, HadamardAttributes{32});
    const ValueId turned = graph_.add(Op::kHadamard, "whole_hadamard", 0, {blocks},
                                      HadamardAttributes{kInner, hadamard_factor(kInner)});
    const ValueId sum = graph_.add(Op::kAdd, "sum", 0, {narrow(turned), wide(turned)});
    const ValueId both = graph_.add(Op::kAdd, "shadow_sum", 0, {sum, shadow(turned)});
    return graph_.add(Op::kAdd, "sum16", 0, {both, static_int16("deep", turned)});
  }

  // Codes up to 127 / 256 clip most of these channels.
  ValueId shadow(ValueId x) {
    const std::vector<std::int32_t> channels = {0, 3, 17, kInner - 1};
    ShadowLinearAttributes attributes =
        make_shadow(FloatWeight(floats({kHidden, kInner})), channels);
    attributes.scale = 1.0F / 256;
    return graph_.add(Op::kShadowLinear, "shadow", 0, {x}, std::move(attributes));
  }

  // int8 codes out of sums, by one shift.
  ValueId narrow(ValueId x) {
    return requantize("narrow", x, channels(kHidden, kInner, {0.0078125F}), {DType::kI8, {7}});
  }

  // int16 codes out of sums, by a shift for each column.
  ValueId wide(ValueId x) {
    std::vector<float> scales;
    RequantizeAttributes attributes{DType::kI16, {}};
    for (std::int64_t c = 0; c < kHidden; ++c) {
      attributes.shifts.push_back(c % 5 - 1);
      scales.push_back(std::ldexp(0.0078125F, -static_cast<int>(c % 5)));
    }
    return requantize("wide", x, channels(kHidden, kInner, scales), std::move(attributes));
  }

  ValueId requantize(const std::string& name, ValueId x, ChannelCodes weight,
                     RequantizeAttributes attributes) {
    const ValueId codes =
        graph_.add(Op::kQuantize, name + ".quantize", 0, {x}, QuantizeAttributes{0.0625F});
    const ValueId sums =
        graph_.add(Op::kLinear, name, 0, {codes}, LinearAttributes{std::move(weight), {}});
    const ValueId out =
        graph_.add(Op::kRequantize, name + ".requantize", 0, {sums}, std::move(attributes));
    return graph_.add(Op::kDequantize, name + ".dequantize", 0, {out}, DequantizeAttributes{});
  }

  ValueId static_int8(const std::string& name, ValueId x, std::int64_t n) {
    const std::int64_t k = graph_.value(x).width;
    const ValueId codes =
        graph_.add(Op::kQuantize, name + ".quantize", 0, {x}, QuantizeAttributes{0.03F});
    return add_static_int8(graph_, name, 0, codes, channels(n, k, {}), floats({n}));
  }

  ValueId static_int16(const std::string& name, ValueId x) {
    const ValueId codes =
        graph_.add(Op::kQuantizeInt16, name + ".quantize", 0, {x}, QuantizeAttributes{0.0001F});
    return add_static_int8(graph_, name, 0, codes, channels(kHidden, kInner, {}),
                           floats({kHidden}));
  }

  ValueId norm(const std::string& name, std::int32_t layer, ValueId x, std::int64_t heads) {
    const std::int64_t width = graph_.value(x).width / heads;
    return graph_.add(Op::kRmsNorm, name, layer, {x},
                      RmsNormAttributes{floats({width}), 1e-5F, heads});
  }

  std::int64_t below(std::int64_t bound) {
    return static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(bound));
  }

  // Multiples of 1/256 in [-1, 1), which float16 and bfloat16 hold too.
  Tensor floats(const Shape& shape) {
    std::vector<float> values(static_cast<std::size_t>(element_count(shape)));
    for (float& value : values) value = static_cast<float>(below(512) - 256) / 256;
    return Tensor::from_floats(values, shape);
  }

  Tensor positive(const Shape& shape) {
    std::vector<float> values(static_cast<std::size_t>(element_count(shape)));
    for (float& value : values) value = static_cast<float>(1 + below(256)) / 256;
    return Tensor::from_floats(values, shape);
  }

  Tensor halves(const Shape& shape) {
    const Tensor exact = floats(shape);
    std::byte* data = nullptr;
    Tensor tensor = Tensor::allocate(DType::kBF16, shape, &data);
    for (std::size_t i = 0; i < exact.as<float>().size(); ++i)
      std::memcpy(data + 2 * i, exact.bytes().data() + 4 * i + 2, 2);
    return tensor;
  }

  Tensor bytes(DType dtype, const Shape& shape) {
    std::byte* data = nullptr;
    Tensor tensor = Tensor::allocate(dtype, shape, &data);
    for (std::int64_t i = 0; i < tensor.elements(); ++i)
      data[i] = static_cast<std::byte>(dtype == DType::kI8 ? below(255) - 127 : below(256));
    return tensor;
  }

  Tensor small_scales(const Shape& shape) {
    std::vector<float> scales(static_cast<std::size_t>(element_count(shape)));
    for (float& scale : scales) scale = 0.001F * static_cast<float>(1 + below(20));
    return Tensor::from_floats(scales, shape);
  }

  Tensor half_scales(const Shape& shape) {
    const Tensor exact = small_scales(shape);
    std::byte* data = nullptr;
    Tensor tensor = Tensor::allocate(DType::kF16, shape, &data);
    for (std::size_t i = 0; i < exact.as<float>().size(); ++i) {
      const std::uint16_t half = float_to_f16(exact.as<float>()[i]);
      std::memcpy(data + 2 * i, &half, 2);
    }
    return tensor;
  }

  GroupCodes groups(std::int64_t n, std::int64_t k, int bits, bool is_signed, bool zero_points) {
    GroupCodes weight{.n = n, .k = k, .bits = bits, .is_signed = is_signed, .group = 32};
    weight.codes = bytes(bits == 8 && is_signed ? DType::kI8 : DType::kU8, {n, k * bits / 8});
    weight.scales = bits == 4 ? half_scales({n, k / 32}) : small_scales({n, k / 32});
    if (zero_points) weight.zero_points = bytes(DType::kU8, {n, k / 32 * bits / 8});
    return weight;
  }

  // Without scales: one for each channel, of any size.
  ChannelCodes channels(std::int64_t n, std::int64_t k, const std::vector<float>& scales) {
    ChannelCodes weight{.n = n, .k = k, .codes = bytes(DType::kI8, {n, k})};
    weight.scales = scales.empty()
                        ? small_scales({n})
                        : Tensor::from_floats(scales, {static_cast<std::int64_t>(scales.size())});
    return weight;
  }

  std::mt19937_64 random_{3};
  Graph graph_;
};

}  // namespace tandem::testing
