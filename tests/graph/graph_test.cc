// Shape inference with its errors, the whole-graph checks and the text dump.
#include "graph/graph.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "graph/small_parts.h"

namespace tandem {
namespace {

using testing::angles;
using testing::attention;
using testing::error_of;
using testing::gain;
using testing::int8;
using testing::ones;
using testing::rotary;
using testing::small_block;
using testing::Start;
using testing::table;
using testing::weight;

TEST(GraphAdd, InfersWidthRowsAndType) {
  Start start;
  Graph& g = start.graph;
  EXPECT_EQ(g.inputs(), (std::vector<ValueId>{start.ids, start.selected}));
  EXPECT_EQ(g.row_spaces(), (std::vector<std::string>{"tokens", "selected"}));
  EXPECT_EQ(g.value(start.ids).dtype, DType::kI32);
  EXPECT_EQ(g.value(start.ids).width, 1);
  EXPECT_EQ(g.value(start.x).dtype, DType::kF32);
  EXPECT_EQ(g.value(start.x).width, 8);
  EXPECT_EQ(g.value(start.x).name, "embed");

  const ValueId up = g.add(Op::kLinear, "up", 2, {start.x}, weight(12, 8));
  EXPECT_EQ(g.value(up).width, 12);
  EXPECT_EQ(g.value(g.add(Op::kSilu, "act", 2, {up})).width, 12);
  EXPECT_EQ(g.value(g.add(Op::kMul, "mul", 2, {up, up})).width, 12);
  EXPECT_EQ(g.value(g.add(Op::kRmsNorm, "norm", 2, {up}, gain(12))).width, 12);
  const ValueId turn = g.add(Op::kRotaryAngles, "angles", -1, {start.ids}, angles(2));
  EXPECT_EQ(g.value(turn).width, 4);
  EXPECT_EQ(g.value(g.add(Op::kRotaryEmbedding, "rope", 2, {up, turn}, rotary(3, 4))).width, 12);
  const ValueId context =
      g.add(Op::kGroupQueryAttention, "attn", 2, {up, up, up}, attention(3, 3, 4));
  EXPECT_EQ(g.value(context).width, 12);
  EXPECT_EQ(g.value(context).rows, kTokens);
  const ValueId selected = g.add(Op::kSelectRows, "select", -1, {context, start.selected});
  EXPECT_EQ(g.value(selected).rows, g.value(start.selected).rows);
  EXPECT_EQ(g.value(selected).width, 12);
  EXPECT_EQ(g.value(g.add(Op::kLinear, "head", -1, {selected}, weight(5, 12))).rows,
            g.value(start.selected).rows);
  EXPECT_EQ(g.layers(), 3);
  EXPECT_EQ(g.node(1).as<LinearAttributes>().bias.empty(), true);
}

TEST(GraphAdd, TakesQuantizedWeights) {
  Start start;
  const ValueId y =
      start.graph.add(Op::kLinear, "up", 0, {start.x}, LinearAttributes{int8(12, 8, {0.5F}), {}});
  EXPECT_EQ(start.graph.value(y).width, 12);
  EXPECT_EQ(start.graph.value(y).dtype, DType::kF32);
  EXPECT_EQ(start.reject(Op::kLinear, {y}, LinearAttributes{int8(12, 16, {0.5F}), {}}),
            "[linear] node: expected K = 16, got 12");
}

TEST(GraphAdd, RejectsMisshapenInputs) {
  Graph graph;
  const auto reject = [&](Value value) {
    const std::string message = error_of([&] { graph.add_input(std::move(value)); });
    EXPECT_TRUE(graph.inputs().empty() && graph.values().empty());
    return message;
  };
  EXPECT_EQ(reject({.name = "x", .width = 0}),
            "[graph] input x: expected a width above 0 and one of 1 row spaces");
  EXPECT_EQ(reject({.name = "x", .rows = 1, .width = 8}),
            "[graph] input x: expected a width above 0 and one of 1 row spaces");
  EXPECT_EQ(reject({.name = "x", .rows = -1, .width = 8}),
            "[graph] input x: expected a width above 0 and one of 1 row spaces");
  for (const Tensor& scales :
       {Tensor(), ones({2}), Tensor::from_floats(std::vector{0.0F}, {1}),
        Tensor::from_floats(std::vector{std::numeric_limits<float>::infinity()}, {1})})
    EXPECT_EQ(
        reject(
            {.name = "x", .dtype = DType::kI8, .width = 8, .quantization = Quantization{scales}}),
        "[graph] input x: expected 1 or 8 finite scales above 0 in F32");
  EXPECT_EQ(graph.row_space("selected"), 1);
  EXPECT_EQ(graph.row_space("tokens"), kTokens);
  EXPECT_EQ(graph.row_space("selected"), 1);
}

TEST(GraphAdd, RejectsMisshapenLinear) {
  Start start;
  EXPECT_EQ(start.reject(Op::kLinear, {start.x}, weight(4, 16)),
            "[linear] node: expected K = 16, got 8");
  LinearAttributes biased = weight(4, 8);
  biased.bias = ones({8});
  EXPECT_EQ(start.reject(Op::kLinear, {start.x}, biased),
            "[linear] node: expected bias [4], got [8]");
  biased.bias = ones({4, 1});
  EXPECT_EQ(start.reject(Op::kLinear, {start.x}, biased),
            "[linear] node: expected bias as a float tensor of 1 dimension, got F32 [4, 1]");
  EXPECT_EQ(error_of([] { FloatWeight(ones({4, 2, 4})); }),
            "[rows] expected a matrix of F32, F16, BF16, F64 or F8, got F32 [4, 2, 4]");
  EXPECT_EQ(start.reject(Op::kLinear, {start.x}, LinearAttributes{}),
            "[linear] node: expected a weight, got none");
}

TEST(GraphAdd, RejectsWrongInputs) {
  Start start;
  EXPECT_EQ(start.reject(Op::kSilu, {7}),
            "[silu] node: input %7 is not defined, expected one of 3 values");
  EXPECT_EQ(start.reject(Op::kSilu, {-1}),
            "[silu] node: input %-1 is not defined, expected one of 3 values");
  EXPECT_EQ(start.reject(Op::kSilu, {}), "[silu] node: expected 1 input, got 0");
  EXPECT_EQ(start.reject(Op::kAdd, {start.x}), "[add] node: expected 2 inputs, got 1");
  EXPECT_EQ(start.reject(Op::kSilu, {start.ids}),
            "[silu] node: expected F32 input, got I32 (input_ids)");
  EXPECT_EQ(start.reject(Op::kEmbedding, {start.x}, table(5, 8)),
            "[embedding] node: expected I32 input, got F32 (embed)");
  EXPECT_EQ(start.reject(Op::kSilu, {start.x}, gain(8)),
            "[silu] node: the attributes are not those of this operator");
  EXPECT_EQ(start.reject(Op::kRmsNorm, {start.x}),
            "[rms_norm] node: the attributes are not those of this operator");
  EXPECT_EQ(start.reject(Op::kSilu, {start.x}, {}, -2),
            "[silu] node: expected a layer in [-1, 65535], got -2");
  EXPECT_EQ(start.reject(Op::kSilu, {start.x}, {}, std::numeric_limits<std::int32_t>::max()),
            "[silu] node: expected a layer in [-1, 65535], got 2147483647");
}

TEST(GraphAdd, RejectsMisshapenNorm) {
  Start start;
  EXPECT_EQ(start.reject(Op::kRmsNorm, {start.x}, gain(4)),
            "[rms_norm] node: expected weight [8], got [4]");
  EXPECT_EQ(start.reject(Op::kRmsNorm, {start.x}, RmsNormAttributes{ones({8}), -1}),
            "[rms_norm] node: expected epsilon of at least 0, got -1");
  EXPECT_EQ(start.reject(Op::kRmsNorm, {start.x}, RmsNormAttributes{ones({8}), 0, 2}),
            "[rms_norm] node: expected weight [4], got [8]");
  EXPECT_EQ(start.reject(Op::kRmsNorm, {start.x}, RmsNormAttributes{ones({2}), 0, 3}),
            "[rms_norm] node: expected heads that divide the width 8, got 3");
  EXPECT_EQ(start.reject(Op::kRmsNorm, {start.x}, RmsNormAttributes{ones({8}), 0, 0}),
            "[rms_norm] node: expected heads that divide the width 8, got 0");
}

TEST(GraphAdd, RejectsAMeaninglessCap) {
  Start start;
  EXPECT_EQ(start.reject(Op::kSoftcap, {start.x}, SoftcapAttributes{0}),
            "[softcap] node: expected a cap above 0, got 0");
  EXPECT_EQ(start.reject(Op::kSoftcap, {start.x}),
            "[softcap] node: the attributes are not those of this operator");
}

TEST(GraphAdd, RejectsMisshapenAngles) {
  Start start;
  RotaryAnglesAttributes attributes = angles(2);
  const auto reject = [&](const RotaryAnglesAttributes& with) {
    return start.reject(Op::kRotaryAngles, {start.ids}, with);
  };
  EXPECT_EQ(start.reject(Op::kRotaryAngles, {}, attributes),
            "[rotary_angles] node: expected 1 input, got 0");
  EXPECT_EQ(start.reject(Op::kRotaryAngles, {start.ids}),
            "[rotary_angles] node: the attributes are not those of this operator");
  EXPECT_EQ(start.reject(Op::kRotaryAngles, {start.selected}, attributes),
            "[rotary_angles] node: expected a row per token, selected_rows has other rows");
  EXPECT_EQ(reject(angles(0)), "[rotary_angles] node: expected inverse frequencies, got none");
  attributes.inverse_frequencies[1] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(reject(attributes), "[rotary_angles] node: an inverse frequency is not finite");
  attributes = angles(2);
  attributes.extension = {.original_context = 8, .inverse_frequencies = {1}};
  EXPECT_EQ(reject(attributes),
            "[rotary_angles] node: expected 2 inverse frequencies beyond the original context, "
            "got 1");
  attributes.extension.inverse_frequencies = {1, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_EQ(reject(attributes), "[rotary_angles] node: an inverse frequency is not finite");
}

TEST(GraphAdd, RejectsMisshapenRotation) {
  Start start;
  Graph& g = start.graph;
  const ValueId turn = g.add(Op::kRotaryAngles, "angles", -1, {start.ids}, angles(2));
  const ValueId wide = g.add(Op::kRotaryAngles, "wide", -1, {start.ids}, angles(3));
  EXPECT_EQ(start.reject(Op::kRotaryEmbedding, {start.x}, rotary(2, 4)),
            "[rotary_embedding] node: expected 2 inputs, got 1");
  EXPECT_EQ(start.reject(Op::kRotaryEmbedding, {start.x, start.ids}, rotary(2, 4)),
            "[rotary_embedding] node: expected F32 input, got I32 (input_ids)");
  EXPECT_EQ(start.reject(Op::kRotaryEmbedding, {start.x, turn}, rotary(3, 4)),
            "[rotary_embedding] node: expected width = 12, got 8");
  EXPECT_EQ(start.reject(Op::kRotaryEmbedding, {start.x, wide}, rotary(2, 4)),
            "[rotary_embedding] node: expected the angles of 2 to 4 elements of a head, got 6");
  EXPECT_EQ(start.reject(Op::kRotaryEmbedding, {start.x, turn}, rotary(0, 4)),
            "[rotary_embedding] node: expected heads and head_dim above 0, got 0 and 4");
  const ValueId odd = g.add(Op::kLinear, "odd", 0, {start.x}, weight(3, 8));
  EXPECT_EQ(start.reject(Op::kRotaryEmbedding, {start.x, odd}, rotary(2, 4)),
            "[rotary_embedding] node: expected the angles of 2 to 4 elements of a head, got 3");
  const ValueId last = g.add(Op::kSelectRows, "select", -1, {start.x, start.selected});
  EXPECT_EQ(start.reject(Op::kRotaryEmbedding, {last, turn}, rotary(2, 4)),
            "[rotary_embedding] node: expected inputs with the same rows, select and angles "
            "differ");
}

TEST(GraphAdd, RejectsMisshapenAttention) {
  Start start;
  const std::vector<ValueId> inputs(3, start.x);
  EXPECT_EQ(start.reject(Op::kGroupQueryAttention, inputs, attention(3, 2, 4)),
            "[group_query_attention] node: expected heads as a multiple of 2 kv_heads, got 3");
  EXPECT_EQ(start.reject(Op::kGroupQueryAttention, inputs, attention(2, 1, 4)),
            "[group_query_attention] node: expected width of k = 4, got 8");
  EXPECT_EQ(start.reject(Op::kGroupQueryAttention, inputs, attention(0, 0, 4)),
            "[group_query_attention] node: expected heads, kv_heads and head_dim above 0, got 0, 0 "
            "and 4");
  AttentionAttributes windowed = attention(2, 2, 4);
  windowed.window = -8;
  EXPECT_EQ(start.reject(Op::kGroupQueryAttention, inputs, windowed),
            "[group_query_attention] node: scale 0.5, window -8 or softcap 0 is out of range");
  AttentionAttributes scaled = attention(2, 2, 4);
  scaled.v_scales = Tensor::from_floats(std::vector<float>(8, 1.0F), {8});
  EXPECT_EQ(start.reject(Op::kGroupQueryAttention, inputs, scaled),
            "[group_query_attention] node: expected k_scales as a float tensor of 1 dimension, got "
            "none");
  scaled.k_scales = Tensor::from_floats(std::vector<float>(7, 1.0F), {7});
  EXPECT_EQ(start.reject(Op::kGroupQueryAttention, inputs, scaled),
            "[group_query_attention] node: expected k_scales [8], got [7]");
  const float with_zero[] = {1, 1, 1, 1, 0, 1, 1, 1};
  scaled.k_scales = Tensor::from_floats(with_zero, {8});
  EXPECT_EQ(start.reject(Op::kGroupQueryAttention, inputs, scaled),
            "[group_query_attention] node: expected k_scales above 0, got 0");
  AttentionAttributes int16 = attention(2, 2, 4);
  int16.int16_scales = Tensor::from_floats(std::vector<float>(3, 1.0F), {3});
  EXPECT_EQ(start.reject(Op::kGroupQueryAttention, inputs, int16),
            "[group_query_attention] node: expected int16_scales with k_scales and v_scales");
}

TEST(GraphAdd, KeepsRowsApart) {
  Start start;
  Graph& g = start.graph;
  const ValueId selected = g.add(Op::kSelectRows, "select", -1, {start.x, start.selected});
  EXPECT_EQ(error_of([&] { g.add(Op::kAdd, "sum", -1, {start.x, selected}); }),
            "[add] sum: expected inputs with the same rows, embed and select differ");
  EXPECT_EQ(error_of([&] { g.add(Op::kSelectRows, "again", -1, {selected, start.selected}); }),
            "[select_rows] again: the rows are selected already");
  EXPECT_EQ(error_of([&] {
              g.add(Op::kGroupQueryAttention, "attn", 0, {selected, selected, selected},
                    attention(2, 2, 4));
            }),
            "[group_query_attention] attn: expected a row per token, select has other rows");
}

TEST(GraphAdd, RejectsAMisshapenSelection) {
  Start start;
  EXPECT_EQ(start.reject(Op::kSelectRows, {start.x}),
            "[select_rows] node: expected 2 inputs, got 1");
  EXPECT_EQ(start.reject(Op::kSelectRows, {start.ids, start.selected}),
            "[select_rows] node: expected F32 input, got I32 (input_ids)");
  EXPECT_EQ(start.reject(Op::kSelectRows, {start.x, start.x}),
            "[select_rows] node: expected row numbers as I32 of width 1, got F32 of width 8 "
            "(embed)");
  const ValueId wide = start.graph.add_input({.name = "wide",
                                              .dtype = DType::kI32,
                                              .rows = start.graph.row_space("selected"),
                                              .width = 2});
  EXPECT_EQ(
      start.reject(Op::kSelectRows, {start.x, wide}),
      "[select_rows] node: expected row numbers as I32 of width 1, got I32 of width 2 (wide)");
  EXPECT_EQ(start.reject(Op::kSelectRows, {start.x, start.selected}, gain(8)),
            "[select_rows] node: the attributes are not those of this operator");
}

TEST(GraphAdd, GivesEveryOutputAValue) {
  Start start;
  const std::vector<ValueId> outputs =
      start.graph.add_node(Op::kDynamicQuantize, "codes", 0, {start.x});
  ASSERT_EQ(outputs.size(), 2U);
  EXPECT_EQ(start.graph.nodes().back().outputs, outputs);
  EXPECT_EQ(error_of([&] { start.graph.add(Op::kDynamicQuantize, "codes", 0, {start.x}); }),
            "[dynamic_quantize] codes: writes 2 values, expected one");
}

TEST(GraphVerify, AcceptsAWholeGraph) {
  EXPECT_NO_THROW(verify(small_block()));
  EXPECT_NO_THROW(verify_decoder(small_block()));
}

TEST(GraphVerify, WantsInputAndOutput) {
  EXPECT_EQ(error_of([] { verify(Graph{}); }), "[graph] the input is missing");
  Graph graph = small_block();
  graph.set_outputs({});
  EXPECT_EQ(error_of([&] { verify(graph); }), "[graph] the output is missing");
  graph.set_outputs({-1});
  EXPECT_EQ(error_of([&] { verify(graph); }), "[graph] the output is missing");
  graph.set_outputs({1000});
  EXPECT_EQ(error_of([&] { verify(graph); }), "[graph] the output is missing");
  graph.set_outputs({graph.inputs()[0]});
  EXPECT_EQ(error_of([&] { verify(graph); }), "[graph] no node writes the output, %0 input_ids");
}

TEST(GraphVerify, TakesSeveralOutputs) {
  Graph graph = small_block();
  const ValueId context = graph.node(5).output();
  graph.set_outputs({graph.outputs()[0], context});
  EXPECT_NO_THROW(verify(graph));
  graph.set_outputs({context, graph.inputs()[1]});
  EXPECT_EQ(error_of([&] { verify(graph); }),
            "[graph] no node writes the output, %1 selected_rows");
}

// A weight whose memory changes after its node was added: what was inferred no longer holds.
TEST(GraphVerify, NoticesAScaleThatIsNotThatOfTheNode) {
  Start start;
  const ValueId codes =
      start.graph.add(Op::kQuantize, "codes", 0, {start.x}, QuantizeAttributes{0.5F});
  ChannelCodes changing = int8(4, 8, {1});
  std::byte* data = nullptr;
  changing.scales = Tensor::allocate(DType::kF32, {1}, &data);
  float scale = 2;
  std::memcpy(data, &scale, 4);
  const ValueId sums =
      start.graph.add(Op::kLinear, "up", 0, {codes}, LinearAttributes{changing, {}});
  start.graph.set_outputs({sums});
  EXPECT_NO_THROW(verify(start.graph));
  scale = 3;
  std::memcpy(data, &scale, 4);
  EXPECT_EQ(error_of([&] { verify(start.graph); }),
            "[linear] up: the scale of %4 is not that of its node");
}

TEST(GraphVerify, WantsOneAttentionNodeALayer) {
  Graph graph = small_block();
  const ValueId x = graph.node(0).output();
  Graph twice = graph;
  twice.add(Op::kGroupQueryAttention, "second", 0, {x, x, x}, attention(2, 2, 4));
  EXPECT_NO_THROW(verify(twice));
  EXPECT_EQ(error_of([&] { verify_decoder(twice); }),
            "[group_query_attention] second: layer 0 has an attention node already, attn");
  Graph outside = graph;
  outside.add(Op::kGroupQueryAttention, "loose", -1, {x, x, x}, attention(2, 2, 4));
  EXPECT_EQ(error_of([&] { verify_decoder(outside); }),
            "[group_query_attention] loose: expected to be in a layer");
  graph.add(Op::kSilu, "lonely", 1, {x});
  EXPECT_EQ(error_of([&] { verify_decoder(graph); }),
            "[silu] lonely: layer 1 has no attention node");
}

TEST(GraphDump, ShowsOneLineANode) {
  EXPECT_EQ(dump(small_block()),
            "%2 = Embedding(%0) embed F32 [5, 8] -> [tokens, 8]\n"
            "%3 = RotaryAngles(%0) angles rotary 4 -> [tokens, 4]\n"
            "%4 = Linear(%2) q f32 [8, 8] -> [tokens, 8]\n"
            "%5 = Linear(%2) k f32 [4, 8] -> [tokens, 4]\n"
            "%6 = RotaryEmbedding(%5, %3) k_rotary 1 x 4 -> [tokens, 4]\n"
            "%7 = GroupQueryAttention(%4, %6, %5) attn 2:1 x 4 scale 0.5 -> [tokens, 8]\n"
            "%8 = Add(%2, %7) residual -> [tokens, 8]\n"
            "%9 = SelectRows(%8, %1) select -> [selected, 8]\n"
            "%10 = Linear(%9) head f32 [5, 8] -> [selected, 5]\n");
}

TEST(GraphDump, ShowsWhatIsUnusual) {
  Start start;
  Graph& g = start.graph;
  const auto shows = [&](const char* part) {
    EXPECT_NE(dump(g).find(part), std::string::npos) << dump(g);
  };
  const ValueId scaled =
      g.add(Op::kEmbedding, "scaled", -1, {start.ids}, EmbeddingAttributes{ones({5, 8}), 2});
  shows("scaled F32 [5, 8] scale 2 ->");
  GroupCodes int4{.n = 8, .k = 32, .group = 32};
  const ValueId wide = g.add(Op::kLinear, "wide", 0, {scaled}, weight(32, 8));
  const ValueId q = g.add(Op::kLinear, "q", 0, {wide}, LinearAttributes{int4, ones({8})});
  shows("q int4 g32 symmetric [8, 32] + bias -> [tokens, 8]");
  RotaryAnglesAttributes partial = angles(2);
  partial.attention_factor = 1.25F;
  const ValueId turn = g.add(Op::kRotaryAngles, "turn", -1, {start.ids}, partial);
  shows("turn rotary 4 factor 1.25 ->");
  partial.extension.original_context = 32;
  g.add(Op::kRotaryAngles, "far", -1, {start.ids}, partial);
  shows("far rotary 4 factor 1.25 extended beyond 32 ->");
  const ValueId turned = g.add(Op::kRotaryEmbedding, "rope", 0, {q, turn}, rotary(1, 8));
  shows("rope 1 x 8 ->");
  AttentionAttributes windowed = attention(1, 1, 8);
  windowed.window = 16;
  windowed.softcap = 50;
  g.add(Op::kGroupQueryAttention, "attn", 0, {turned, q, q}, windowed);
  shows("attn 1:1 x 8 scale 0.5 window 16 softcap 50 ->");
  const ValueId normed = g.add(Op::kRmsNorm, "norm", 0, {q}, RmsNormAttributes{ones({4}), 0, 2});
  shows("norm epsilon 0 heads 2 ->");
  const ValueId opened = g.add(Op::kGelu, "act", 0, {normed});
  shows("= GELU(");
  g.add(Op::kSoftcap, "cap", 0, {opened}, SoftcapAttributes{30});
  shows("cap cap 30 ->");
}

TEST(GraphDump, ShowsIntegers) {
  Start start;
  Graph& g = start.graph;
  const ValueId codes = g.add(Op::kQuantize, "codes", 0, {start.x}, QuantizeAttributes{0.5F});
  const ValueId sums = g.add(Op::kLinear, "up", 0, {codes}, LinearAttributes{int8(4, 8, {2}), {}});
  g.add(Op::kRequantize, "narrow", 0, {sums}, RequantizeAttributes{DType::kI8, {7}});
  g.add(Op::kDequantize, "floats", 0, {sums}, DequantizeAttributes{ones({4})});
  g.add(Op::kHadamard, "turn", 0, {start.x}, HadamardAttributes{4});
  g.add_node(Op::kDynamicQuantize, "dynamic", 0, {start.x});
  EXPECT_EQ(dump(g),
            "%2 = Embedding(%0) embed F32 [5, 8] -> [tokens, 8]\n"
            "%3 = Quantize(%2) codes scale 0.5 -> I8 [tokens, 8]\n"
            "%4 = Linear(%3) up int8 per tensor [4, 8] -> I32 [tokens, 4]\n"
            "%5 = Requantize(%4) narrow shift 7 -> I8 [tokens, 4]\n"
            "%6 = Dequantize(%4) floats + bias -> [tokens, 4]\n"
            "%7 = Hadamard(%2) turn block 4 -> [tokens, 8]\n"
            "%8, %9 = DynamicQuantize(%2) dynamic -> I8 [tokens, 8], [tokens, 1]\n");
  const ValueId apart =
      g.add(Op::kLinear, "apart", 0, {codes}, LinearAttributes{int8(2, 8, {2, 0.5F}), {}});
  g.add(Op::kRequantize, "even", 0, {apart}, RequantizeAttributes{DType::kI16, {1, 3}});
  EXPECT_NE(dump(g).find("even shifts 1 to 3 -> I16 [tokens, 2]"), std::string::npos) << dump(g);
}

}  // namespace
}  // namespace tandem
