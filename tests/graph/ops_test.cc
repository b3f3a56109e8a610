// The table of operators, and the rules of those on integers.
#include "graph/ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "graph/every_operator.h"
#include "graph/int8_nodes.h"
#include "graph/shadow.h"
#include "graph/small_parts.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::gain;
using testing::int8;
using testing::ones;
using testing::Start;
using testing::weight;

std::vector<float> scales_of(const Graph& graph, ValueId id) {
  const auto& quantization = graph.value(id).quantization;
  if (!quantization) return {};
  const auto scales = quantization->scales.as<float>();
  return {scales.begin(), scales.end()};
}

TEST(Ops, HaveARowEach) {
  std::set<std::string_view> names, parts;
  for (std::size_t i = 0; i < all_ops().size(); ++i) {
    const OpInfo& row = all_ops()[i];
    const Op op = row.op;
    EXPECT_EQ(static_cast<std::size_t>(op), i);
    EXPECT_EQ(&info(op), &row);
    EXPECT_EQ(to_string(op), row.name);
    EXPECT_EQ(find_op(row.name), op);
    names.insert(row.name);
    parts.insert(row.error_part);
    ASSERT_NE(row.infer, nullptr);
    ASSERT_NE(row.describe, nullptr);
    ASSERT_NE(row.attributes, nullptr);
  }
  EXPECT_EQ(names.size(), all_ops().size());
  EXPECT_EQ(parts.size(), all_ops().size());
  for (const char* unknown : {"", "linear", "Linear ", "MatMul"})
    EXPECT_EQ(find_op(unknown), std::nullopt);
}

// So that later tests that use it leave out none.
TEST(Ops, AllOccurInTheTestsGraph) {
  const Graph graph = testing::EveryOperator::build();
  std::set<Op> seen;
  for (const Node& node : graph.nodes()) {
    seen.insert(node.op);
    EXPECT_EQ(info(node.op).attributes().index(), node.attributes.index()) << node.name;
  }
  EXPECT_EQ(seen.size(), all_ops().size());
}

// Empty attributes, and those of another operator: an error, never a node.
TEST(Ops, RefuseAttributesThatAreNotTheirs) {
  for (const OpInfo& row : all_ops()) {
    Start start;
    for (const std::size_t count : {0U, 1U, 2U, 3U, 4U}) {
      const std::vector<ValueId> inputs(count, start.x);
      const Attributes foreign = row.op == Op::kRmsNorm ? Attributes(SoftcapAttributes{})
                                                        : Attributes(RmsNormAttributes{});
      EXPECT_EQ(start.reject(row.op, inputs, foreign)
                    .rfind(fmt::format("[{}] node: ", row.error_part), 0),
                0U);
    }
  }
}

TEST(Quantize, GivesCodesWithItsScale) {
  Start start;
  const ValueId codes =
      start.graph.add(Op::kQuantize, "codes", 0, {start.x}, QuantizeAttributes{0.5F});
  EXPECT_EQ(start.graph.value(codes).dtype, DType::kI8);
  EXPECT_EQ(start.graph.value(codes).width, 8);
  EXPECT_EQ(scales_of(start.graph, codes), std::vector{0.5F});
  EXPECT_EQ(start.reject(Op::kQuantize, {codes}, QuantizeAttributes{1}),
            "[quantize] node: expected F32 input, got I8 (codes)");
  EXPECT_EQ(start.reject(Op::kQuantize, {start.x, start.x}, QuantizeAttributes{1}),
            "[quantize] node: expected 1 input, got 2");
  EXPECT_EQ(start.reject(Op::kQuantize, {start.x}),
            "[quantize] node: the attributes are not those of this operator");
  EXPECT_EQ(start.reject(Op::kQuantize, {start.x}, QuantizeAttributes{0}),
            "[quantize] node: expected a scale above 0, got 0");
  EXPECT_EQ(start.reject(Op::kQuantize, {start.x}, QuantizeAttributes{-1}),
            "[quantize] node: expected a scale above 0, got -1");
  EXPECT_EQ(start.reject(Op::kQuantize, {start.x},
                         QuantizeAttributes{std::numeric_limits<float>::infinity()}),
            "[quantize] node: expected a scale above 0, got inf");
}

TEST(QuantizeInt16, GivesCodesWhoseSumsAreInt64) {
  Start start;
  Graph& g = start.graph;
  const ValueId codes = g.add(Op::kQuantizeInt16, "codes", 0, {start.x}, QuantizeAttributes{0.5F});
  EXPECT_EQ(g.value(codes).dtype, DType::kI16);
  EXPECT_EQ(scales_of(g, codes), std::vector{0.5F});
  const ValueId sums =
      g.add(Op::kLinear, "sums", 0, {codes}, LinearAttributes{int8(4, 8, {3}), {}});
  EXPECT_EQ(g.value(sums).dtype, DType::kI64);
  EXPECT_EQ(scales_of(g, sums), std::vector{1.5F});
  EXPECT_EQ(g.value(g.add(Op::kDequantize, "y", 0, {sums}, DequantizeAttributes{})).dtype,
            DType::kF32);
  EXPECT_EQ(start.reject(Op::kQuantizeInt16, {start.x}, QuantizeAttributes{0}),
            "[quantize_int16] node: expected a scale above 0, got 0");
  EXPECT_EQ(start.reject(Op::kLinear, {codes}, weight(4, 8)),
            "[linear] node: expected int8 weights for int16 input, got f32 [4, 8]");
  const ValueId bare = g.add_input({.name = "bare", .dtype = DType::kI16, .width = 8});
  EXPECT_EQ(start.reject(Op::kLinear, {bare}, LinearAttributes{int8(4, 8, {3}), {}}),
            "[linear] node: expected a scale for all int16 codes, bare has none");
}

TEST(DynamicQuantize, GivesCodesAndTheScaleOfEachRow) {
  Start start;
  const auto outputs = start.graph.add_node(Op::kDynamicQuantize, "codes", 0, {start.x});
  ASSERT_EQ(outputs.size(), 2U);
  const Value& codes = start.graph.value(outputs[0]);
  const Value& scale = start.graph.value(outputs[1]);
  EXPECT_EQ(codes.dtype, DType::kI8);
  EXPECT_EQ(codes.width, 8);
  EXPECT_FALSE(codes.quantization);
  EXPECT_EQ(scale.name, "codes.scale");
  EXPECT_EQ(scale.dtype, DType::kF32);
  EXPECT_EQ(scale.width, 1);
  EXPECT_EQ(start.reject(Op::kDynamicQuantize, {outputs[0]}),
            "[dynamic_quantize] node: expected F32 input, got I8 (codes)");
  EXPECT_EQ(start.reject(Op::kDynamicQuantize, {}),
            "[dynamic_quantize] node: expected 1 input, got 0");
  EXPECT_EQ(start.reject(Op::kDynamicQuantize, {start.x}, gain(8)),
            "[dynamic_quantize] node: the attributes are not those of this operator");
}

TEST(Int8Linear, GivesSumsWhoseScaleIsTheProduct) {
  Start start;
  Graph& g = start.graph;
  const ValueId codes = g.add(Op::kQuantize, "codes", 0, {start.x}, QuantizeAttributes{0.5F});
  const ValueId one = g.add(Op::kLinear, "one", 0, {codes}, LinearAttributes{int8(4, 8, {3}), {}});
  EXPECT_EQ(g.value(one).dtype, DType::kI32);
  EXPECT_EQ(g.value(one).width, 4);
  EXPECT_EQ(scales_of(g, one), std::vector{1.5F});
  EXPECT_FALSE(g.value(one).quantization->times_row_scale);
  const ValueId many =
      g.add(Op::kLinear, "many", 0, {codes}, LinearAttributes{int8(3, 8, {1, 2, 4}), {}});
  EXPECT_EQ(scales_of(g, many), (std::vector{0.5F, 1.0F, 2.0F}));
  // Codes whose scale comes with each row: the weight's is half of the story.
  const auto dynamic = g.add_node(Op::kDynamicQuantize, "dynamic", 0, {start.x});
  const ValueId sums =
      g.add(Op::kLinear, "sums", 0, {dynamic[0]}, LinearAttributes{int8(4, 8, {3}), {}});
  EXPECT_EQ(scales_of(g, sums), std::vector{3.0F});
  EXPECT_TRUE(g.value(sums).quantization->times_row_scale);
}

TEST(Int8Linear, RejectsWhatItCannotSumExactly) {
  Start start;
  Graph& g = start.graph;
  const ValueId codes = g.add(Op::kQuantize, "codes", 0, {start.x}, QuantizeAttributes{0.5F});
  const auto reject = [&](LinearAttributes attributes) {
    return start.reject(Op::kLinear, {codes}, std::move(attributes));
  };
  EXPECT_EQ(reject(weight(4, 8)),
            "[linear] node: expected int8 weights for int8 input, got f32 [4, 8]");
  EXPECT_EQ(reject({int8(4, 8, {1}), ones({4})}),
            "[linear] node: an int8 Linear has no bias: Dequantize adds it");
  EXPECT_EQ(reject({int8(4, 16, {1}), {}}), "[linear] node: expected K = 16, got 8");
  EXPECT_EQ(reject({int8(4, 8, {1, 2}), {}}), "[linear] node: expected 1 or 4 scales in F32");
  EXPECT_EQ(reject({ChannelCodes{.n = 4, .k = 8}, {}}),
            "[linear] node: expected 1 or 4 scales in F32");
  const ValueId wide = g.add_input({.name = "wide", .dtype = DType::kI8, .width = kMaxInt8K + 1});
  EXPECT_EQ(start.reject(Op::kLinear, {wide}, LinearAttributes{int8(1, kMaxInt8K + 1, {1}), {}}),
            "[linear] node: expected K of at most 65536 for exact sums, got 65537");
  const ValueId most = g.add_input({.name = "most", .dtype = DType::kI8, .width = kMaxInt8K});
  EXPECT_NO_THROW(
      g.add(Op::kLinear, "most", 0, {most}, LinearAttributes{int8(1, kMaxInt8K, {1}), {}}));
  const ValueId columns = g.add_input({.name = "columns",
                                       .dtype = DType::kI8,
                                       .width = 2,
                                       .quantization = Quantization{ones({2})}});
  EXPECT_EQ(start.reject(Op::kLinear, {columns}, LinearAttributes{int8(1, 2, {1}), {}}),
            "[linear] node: expected one scale for all columns of columns, got 2");
  const ValueId sums =
      g.add(Op::kLinear, "sums", 0, {codes}, LinearAttributes{int8(8, 8, {1}), {}});
  EXPECT_EQ(start.reject(Op::kLinear, {sums}, LinearAttributes{int8(4, 8, {1}), {}}),
            "[linear] node: expected F32 input, got I32 (sums)");
}

TEST(Dequantize, TakesCodesAndSums) {
  Start start;
  Graph& g = start.graph;
  const ValueId codes = g.add(Op::kQuantize, "codes", 0, {start.x}, QuantizeAttributes{0.5F});
  const ValueId sums =
      g.add(Op::kLinear, "sums", 0, {codes}, LinearAttributes{int8(4, 8, {3}), {}});
  const auto dynamic = g.add_node(Op::kDynamicQuantize, "dynamic", 0, {start.x});
  const ValueId dynamic_sums =
      g.add(Op::kLinear, "dynamic_sums", 0, {dynamic[0]}, LinearAttributes{int8(4, 8, {3}), {}});
  const auto width = [&](std::vector<ValueId> inputs) {
    const ValueId y =
        g.add(Op::kDequantize, "floats", 0, std::move(inputs), DequantizeAttributes{});
    EXPECT_EQ(g.value(y).dtype, DType::kF32);
    EXPECT_FALSE(g.value(y).quantization);
    return g.value(y).width;
  };
  EXPECT_EQ(width({codes}), 8);
  EXPECT_EQ(width({sums}), 4);
  EXPECT_EQ(width({dynamic[0], dynamic[1]}), 8);
  EXPECT_EQ(width({dynamic_sums, dynamic[1]}), 4);

  const auto reject = [&](std::vector<ValueId> inputs, DequantizeAttributes attributes = {}) {
    return start.reject(Op::kDequantize, std::move(inputs), std::move(attributes));
  };
  EXPECT_EQ(reject({}), "[dequantize] node: expected 1 or 2 inputs, got 0");
  EXPECT_EQ(reject({codes, codes, codes}), "[dequantize] node: expected 1 or 2 inputs, got 3");
  EXPECT_EQ(reject({start.x}),
            "[dequantize] node: expected I8, I16, I32 or I64 input, got F32 (embed)");
  EXPECT_EQ(start.reject(Op::kDequantize, {codes}),
            "[dequantize] node: the attributes are not those of this operator");
  EXPECT_EQ(reject({sums}, {ones({8})}), "[dequantize] node: expected bias [4], got [8]");
  EXPECT_EQ(reject({sums}, {ones({2, 2})}),
            "[dequantize] node: expected bias as a float tensor of 1 dimension, got F32 [2, 2]");
  const char* lacking =
      "[dequantize] node: {} has no scale of its own: expected the scale of each row as a second "
      "input";
  EXPECT_EQ(reject({dynamic[0]}), fmt::format(fmt::runtime(lacking), "dynamic"));
  EXPECT_EQ(reject({dynamic_sums}), fmt::format(fmt::runtime(lacking), "dynamic_sums"));
  EXPECT_EQ(reject({start.ids}), fmt::format(fmt::runtime(lacking), "input_ids"));
  EXPECT_EQ(reject({sums, dynamic[1]}),
            "[dequantize] node: sums has a fixed scale: expected no scale of each row");
  EXPECT_EQ(reject({dynamic_sums, codes}),
            "[dequantize] node: expected the rows' scales in F32, got I8 (codes)");
  EXPECT_EQ(reject({dynamic_sums, start.x}),
            "[dequantize] node: expected width of embed = 1, got 8");
  const ValueId last = g.add(Op::kSelectRows, "select", -1, {dynamic[1], start.selected});
  EXPECT_EQ(
      reject({dynamic_sums, last}),
      "[dequantize] node: expected inputs with the same rows, dynamic_sums and select differ");
}

TEST(Requantize, GivesOneScaleForAllColumns) {
  Start start;
  Graph& g = start.graph;
  const ValueId codes = g.add(Op::kQuantize, "codes", 0, {start.x}, QuantizeAttributes{0.5F});
  const auto sums_of = [&](const char* name, std::vector<float> scales) {
    const auto n = static_cast<std::int64_t>(scales.size());
    return g.add(Op::kLinear, name, 0, {codes},
                 LinearAttributes{int8(n == 1 ? 4 : n, 8, scales), {}});
  };
  const ValueId one = sums_of("one", {3});
  const auto add = [&](ValueId sums, RequantizeAttributes attributes) {
    const ValueId y = g.add(Op::kRequantize, "narrow", 0, {sums}, attributes);
    EXPECT_EQ(g.value(y).dtype, attributes.dtype);
    EXPECT_EQ(g.value(y).width, g.value(sums).width);
    return scales_of(g, y);
  };
  EXPECT_EQ(add(one, {DType::kI8, {2}}), std::vector{6.0F});
  EXPECT_EQ(add(one, {DType::kI16, {-1}}), std::vector{0.75F});
  EXPECT_EQ(add(one, {DType::kI8, {1, 1, 1, 1}}), std::vector{3.0F});
  // Columns whose scales differ by powers of two, which their shifts make even.
  const ValueId apart = sums_of("apart", {4, 1, 2});
  EXPECT_EQ(add(apart, {DType::kI16, {0, 2, 1}}), std::vector{2.0F});

  const auto reject = [&](ValueId sums, RequantizeAttributes attributes) {
    return start.reject(Op::kRequantize, {sums}, std::move(attributes));
  };
  EXPECT_EQ(start.reject(Op::kRequantize, {}, RequantizeAttributes{}),
            "[requantize] node: expected 1 input, got 0");
  EXPECT_EQ(start.reject(Op::kRequantize, {one}),
            "[requantize] node: the attributes are not those of this operator");
  EXPECT_EQ(reject(codes, {DType::kI8, {1}}),
            "[requantize] node: expected I32 input, got I8 (codes)");
  EXPECT_EQ(reject(one, {DType::kF32, {1}}),
            "[requantize] node: expected codes in I8 or I16, got F32");
  EXPECT_EQ(reject(one, {DType::kI8, {}}), "[requantize] node: expected 1 or 4 shifts, got 0");
  EXPECT_EQ(reject(one, {DType::kI8, {1, 2}}), "[requantize] node: expected 1 or 4 shifts, got 2");
  EXPECT_EQ(reject(one, {DType::kI8, {32}}),
            "[requantize] node: expected shifts from -31 to 31, got 32");
  EXPECT_EQ(reject(one, {DType::kI8, {-32}}),
            "[requantize] node: expected shifts from -31 to 31, got -32");
  EXPECT_EQ(
      reject(one, {DType::kI8, {1, 1, 2, 1}}),
      "[requantize] node: expected shifts that give every column the scale 3, column 2 has 6");
  EXPECT_EQ(
      reject(apart, {DType::kI8, {1}}),
      "[requantize] node: expected shifts that give every column the scale 4, column 1 has 1");
  EXPECT_EQ(reject(start.ids, {DType::kI8, {1}}),
            "[requantize] node: expected sums with a fixed scale, input_ids has none");
  const auto dynamic = g.add_node(Op::kDynamicQuantize, "dynamic", 0, {start.x});
  const ValueId loose =
      g.add(Op::kLinear, "loose", 0, {dynamic[0]}, LinearAttributes{int8(4, 8, {3}), {}});
  EXPECT_EQ(reject(loose, {DType::kI8, {1}}),
            "[requantize] node: expected sums with a fixed scale, loose has none");
}

TEST(Hadamard, TakesBlocksOfAFactorTimesAPowerOfTwo) {
  Start start;
  for (const std::int64_t block : {1, 2, 4, 8}) {
    const ValueId y =
        start.graph.add(Op::kHadamard, "turn", 0, {start.x}, HadamardAttributes{block});
    EXPECT_EQ(start.graph.value(y).width, 8);
  }
  for (const std::int64_t block : {0, -4, 3, 16})
    EXPECT_EQ(start.reject(Op::kHadamard, {start.x}, HadamardAttributes{block}),
              fmt::format("[hadamard] node: expected blocks of a power of two that divide the "
                          "width 8, got {}",
                          block));
  const auto factor = [](std::int64_t m, std::int64_t n) {
    return Tensor::from_floats(std::vector<float>(static_cast<std::size_t>(m * n), 1), {m, n});
  };
  const ValueId six = start.graph.add(Op::kLinear, "six", 0, {start.x},
                                      LinearAttributes{FloatWeight(factor(6, 8)), {}});
  start.graph.add(Op::kHadamard, "turn", 0, {six}, HadamardAttributes{6, factor(3, 3)});
  EXPECT_EQ(start.reject(Op::kHadamard, {six}, HadamardAttributes{2, factor(3, 3)}),
            "[hadamard] node: expected blocks of 3 times a power of two that divide the width 6, "
            "got 2");
  EXPECT_EQ(start.reject(Op::kHadamard, {six}, HadamardAttributes{6, factor(3, 2)}),
            "[hadamard] node: expected a factor F32 [m, m], got F32 [3, 2]");
  EXPECT_EQ(start.reject(Op::kHadamard, {start.ids}, HadamardAttributes{1}),
            "[hadamard] node: expected F32 input, got I32 (input_ids)");
  EXPECT_EQ(start.reject(Op::kHadamard, {start.x}),
            "[hadamard] node: the attributes are not those of this operator");
}

Tensor numbers(const std::vector<std::int32_t>& values) {
  std::byte* data = nullptr;
  Tensor tensor = Tensor::allocate(DType::kI32, {static_cast<std::int64_t>(values.size())}, &data);
  std::ranges::copy(values, reinterpret_cast<std::int32_t*>(data));
  return tensor;
}

TEST(ShadowLinear, TakesAscendingChannelsAndTheirWeights) {
  Start start;
  const ValueId y = start.graph.add(Op::kShadowLinear, "shadow", 0, {start.x},
                                    ShadowLinearAttributes{0.5F, numbers({0, 3, 7}), ones({3, 5})});
  EXPECT_EQ(start.graph.value(y).width, 5);
  EXPECT_NE(dump(start.graph).find("ShadowLinear(%2) shadow scale 0.5 channels 3 F32 ->"),
            std::string::npos);
  const auto reject = [&](ShadowLinearAttributes attributes) {
    return start.reject(Op::kShadowLinear, {start.x}, std::move(attributes));
  };
  const std::string node = "[shadow_linear] node: expected ";
  for (const float scale : {0.0F, -1.0F, std::numeric_limits<float>::infinity()})
    EXPECT_EQ(reject({scale, numbers({0}), ones({1, 5})}),
              fmt::format("{}a scale above 0, got {}", node, scale));
  EXPECT_EQ(reject({1, {}, ones({1, 5})}), node + "channels as I32 of 1 dimension, got none");
  EXPECT_EQ(reject({1, ones({1}), ones({1, 5})}),
            node + "channels as I32 of 1 dimension, got F32 [1]");
  EXPECT_EQ(reject({1, numbers({}), ones({1, 5})}),
            node + "channels as I32 of 1 dimension, got I32 [0]");
  EXPECT_EQ(reject({1, numbers({8}), ones({1, 5})}),
            node + "ascending channels below 8, got 8 after -1");
  EXPECT_EQ(reject({1, numbers({-1}), ones({1, 5})}),
            node + "ascending channels below 8, got -1 after -1");
  EXPECT_EQ(reject({1, numbers({4, 4}), ones({2, 5})}),
            node + "ascending channels below 8, got 4 after 4");
  EXPECT_EQ(reject({1, numbers({4}), {}}),
            node + "weight as a float tensor of 2 dimensions, got none");
  EXPECT_EQ(reject({1, numbers({4}), numbers({4})}),
            node + "weight as a float tensor of 2 dimensions, got I32 [1]");
  EXPECT_EQ(reject({1, numbers({4}), ones({2, 5})}), node + "weight [1, n], got [2, 5]");
  EXPECT_EQ(start.reject(Op::kShadowLinear, {start.ids},
                         ShadowLinearAttributes{1, numbers({0}), ones({1, 5})}),
            "[shadow_linear] node: expected F32 input, got I32 (input_ids)");
}

TEST(ShadowLinear, HasTheWeightsOfItsChannels) {
  const std::vector<float> values = {1, 2, 3, 4, 5, 6, 7, 70000};
  const Weight weight = FloatWeight(Tensor::from_floats(values, {2, 4}));
  const std::vector<std::int32_t> two = {0, 2}, last = {3};
  const ShadowLinearAttributes some = make_shadow(weight, two);
  EXPECT_EQ(some.weight.dtype(), DType::kF16);
  EXPECT_EQ(some.weight.to_floats(), (std::vector<float>{1, 5, 3, 7}));
  const ShadowLinearAttributes large = make_shadow(weight, last);
  EXPECT_EQ(large.weight.dtype(), DType::kF32) << "70000 is beyond float16";
  EXPECT_EQ(large.weight.to_floats(), (std::vector<float>{4, 70000}));
  const ShadowLinearAttributes whole = make_whole_shadow(int8(3, 2, {2, 0.5F, 4}));
  EXPECT_TRUE(std::ranges::equal(whole.channels.as<std::int32_t>(), std::vector{0, 1}));
  EXPECT_EQ(whole.weight.to_floats(), (std::vector<float>{2, 0.5F, 4, 2, 0.5F, 4}));
}

TEST(ShadowLinear, StandsBesideTheProductOfTheCodes) {
  Start start;
  Int8Linears<Graph> linears(start.graph);
  const ValueId y = linears.add("down", 0, start.x, 0.5F, int8(4, 8, {1}), {},
                                make_whole_shadow(int8(4, 8, {1})));
  EXPECT_EQ(start.graph.value(y).name, "down.shadow_sum");
  EXPECT_EQ(dump(start.graph),
            "%2 = Embedding(%0) embed F32 [5, 8] -> [tokens, 8]\n"
            "%3 = Quantize(%2) embed.quantize scale 0.5 -> I8 [tokens, 8]\n"
            "%4 = Linear(%3) down int8 per tensor [4, 8] -> I32 [tokens, 4]\n"
            "%5 = Dequantize(%4) down.dequantize -> [tokens, 4]\n"
            "%6 = ShadowLinear(%2) down.shadow scale 0.5 channels 8 F16 -> [tokens, 4]\n"
            "%7 = Add(%5, %6) down.shadow_sum -> [tokens, 4]\n");
}

}  // namespace
}  // namespace tandem
