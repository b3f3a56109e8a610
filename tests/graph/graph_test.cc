// Shape inference with its errors, the whole-graph checks and the text dump.
#include "graph/graph.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "support.h"

namespace tandem {
namespace {

using testing::error_of;

Tensor ones(const Shape& shape) {
  return Tensor::from_floats(
      std::vector<float>(static_cast<std::size_t>(element_count(shape)), 1.0F), shape);
}

EmbeddingAttributes table(std::int64_t vocabulary, std::int64_t width) {
  return {.table = ones({vocabulary, width})};
}

LinearAttributes weight(std::int64_t n, std::int64_t k) { return {FloatWeight{ones({n, k})}, {}}; }

RmsNormAttributes gain(std::int64_t width) { return {ones({width}), 1e-6F}; }

RotaryAttributes rotary(std::int64_t heads, std::int64_t head_dim) {
  RotaryAttributes attributes{.heads = heads, .head_dim = head_dim};
  attributes.inverse_frequencies.assign(static_cast<std::size_t>(head_dim / 2), 1.0F);
  return attributes;
}

AttentionAttributes attention(std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim) {
  return {.heads = heads, .kv_heads = kv_heads, .head_dim = head_dim, .scale = 0.5F};
}

// A graph with a value of 8 columns to hang nodes on.
struct Start {
  Graph graph;
  ValueId ids = graph.add_input("input_ids");
  ValueId x = graph.add(Op::kEmbedding, "embed", -1, {ids}, table(5, 8));

  // The error of adding `op` on `inputs`.
  std::string reject(Op op, std::vector<ValueId> inputs, Attributes attributes = {},
                     std::int32_t layer = 0) {
    const std::size_t nodes = graph.nodes().size();
    const std::string message =
        error_of([&] { graph.add(op, "node", layer, std::move(inputs), std::move(attributes)); });
    EXPECT_EQ(graph.nodes().size(), nodes) << "a rejected node stayed in the graph";
    EXPECT_EQ(graph.values().size(), nodes + 1);
    return message;
  }
};

// One block without norms and MLP: enough for every rule of a whole graph.
Graph small_graph() {
  Start start;
  Graph& g = start.graph;
  const ValueId q = g.add(Op::kLinear, "q", 0, {start.x}, weight(8, 8));
  const ValueId k = g.add(Op::kLinear, "k", 0, {start.x}, weight(4, 8));
  const ValueId turned = g.add(Op::kRotaryEmbedding, "k_rotary", 0, {k}, rotary(1, 4));
  const ValueId context =
      g.add(Op::kGroupQueryAttention, "attn", 0, {q, turned, k}, attention(2, 1, 4));
  const ValueId sum = g.add(Op::kAdd, "residual", 0, {start.x, context});
  const ValueId last = g.add(Op::kSelectRows, "select", -1, {sum});
  g.output = g.add(Op::kLinear, "head", -1, {last}, weight(5, 8));
  return g;
}

TEST(GraphAdd, InfersWidthRowsAndType) {
  Start start;
  Graph& g = start.graph;
  EXPECT_EQ(g.input, start.ids);
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
  EXPECT_EQ(g.value(g.add(Op::kRotaryEmbedding, "rope", 2, {up}, rotary(3, 4))).width, 12);
  const ValueId context =
      g.add(Op::kGroupQueryAttention, "attn", 2, {up, up, up}, attention(3, 3, 4));
  EXPECT_EQ(g.value(context).width, 12);
  EXPECT_EQ(g.value(context).rows, Rows::kTokens);
  const ValueId selected = g.add(Op::kSelectRows, "select", -1, {context});
  EXPECT_EQ(g.value(selected).rows, Rows::kSelected);
  EXPECT_EQ(g.value(g.add(Op::kLinear, "head", -1, {selected}, weight(5, 12))).rows,
            Rows::kSelected);
  EXPECT_EQ(g.layers(), 3);
  EXPECT_EQ(g.node(1).as<LinearAttributes>().bias.empty(), true);
}

TEST(GraphAdd, TakesQuantizedWeights) {
  Start start;
  Int8Channels int8{.n = 12, .k = 8};
  const ValueId y = start.graph.add(Op::kLinear, "up", 0, {start.x}, LinearAttributes{int8, {}});
  EXPECT_EQ(start.graph.value(y).width, 12);
  int8.k = 16;
  EXPECT_EQ(start.reject(Op::kLinear, {y}, LinearAttributes{int8, {}}),
            "[linear] node: expected K = 16, got 12");
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
  EXPECT_EQ(
      start.reject(Op::kLinear, {start.x}, LinearAttributes{FloatWeight{ones({4, 2, 4})}, {}}),
      "[linear] node: expected weight as a float tensor of 2 dimensions, got F32 [4, 2, 4]");
  EXPECT_EQ(start.reject(Op::kLinear, {start.x}, LinearAttributes{}),
            "[linear] node: expected weight as a float tensor of 2 dimensions, got none");
}

TEST(GraphAdd, RejectsWrongInputs) {
  Start start;
  EXPECT_EQ(start.reject(Op::kSilu, {7}),
            "[silu] node: input %7 is not defined, expected one of 2 values");
  EXPECT_EQ(start.reject(Op::kSilu, {-1}),
            "[silu] node: input %-1 is not defined, expected one of 2 values");
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

TEST(GraphAdd, RejectsMisshapenRotation) {
  Start start;
  EXPECT_EQ(start.reject(Op::kRotaryEmbedding, {start.x}, rotary(3, 4)),
            "[rotary_embedding] node: expected width = 12, got 8");
  RotaryAttributes attributes = rotary(2, 4);
  attributes.inverse_frequencies.resize(3);
  EXPECT_EQ(start.reject(Op::kRotaryEmbedding, {start.x}, attributes),
            "[rotary_embedding] node: expected 1 to 2 inverse frequencies, got 3");
  attributes.inverse_frequencies.clear();
  EXPECT_EQ(start.reject(Op::kRotaryEmbedding, {start.x}, attributes),
            "[rotary_embedding] node: expected 1 to 2 inverse frequencies, got 0");
  attributes.inverse_frequencies = {std::numeric_limits<float>::infinity()};
  EXPECT_EQ(start.reject(Op::kRotaryEmbedding, {start.x}, attributes),
            "[rotary_embedding] node: an inverse frequency is not finite");
  attributes = rotary(2, 4);
  attributes.extension = {.original_context = 8, .inverse_frequencies = {1}};
  EXPECT_EQ(start.reject(Op::kRotaryEmbedding, {start.x}, attributes),
            "[rotary_embedding] node: expected 2 inverse frequencies beyond the original context, "
            "got 1");
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
}

TEST(GraphAdd, KeepsRowsApart) {
  Start start;
  Graph& g = start.graph;
  const ValueId selected = g.add(Op::kSelectRows, "select", -1, {start.x});
  EXPECT_EQ(error_of([&] { g.add(Op::kAdd, "sum", -1, {start.x, selected}); }),
            "[add] sum: expected inputs with the same rows, embed and select differ");
  EXPECT_EQ(error_of([&] { g.add(Op::kSelectRows, "again", -1, {selected}); }),
            "[select_rows] again: the rows are selected already");
  EXPECT_EQ(error_of([&] {
              g.add(Op::kGroupQueryAttention, "attn", 0, {selected, selected, selected},
                    attention(2, 2, 4));
            }),
            "[group_query_attention] attn: expected a row per token, select has selected rows");
}

TEST(GraphVerify, AcceptsAWholeGraph) { EXPECT_NO_THROW(verify(small_graph())); }

TEST(GraphVerify, WantsInputAndOutput) {
  EXPECT_EQ(error_of([] { verify(Graph{}); }), "[graph] the input is missing");
  Graph graph = small_graph();
  graph.output = -1;
  EXPECT_EQ(error_of([&] { verify(graph); }), "[graph] the output is missing");
  graph.output = 1000;
  EXPECT_EQ(error_of([&] { verify(graph); }), "[graph] the output is missing");
  graph.output = graph.input;
  EXPECT_EQ(error_of([&] { verify(graph); }), "[graph] no node writes the output, %0 input_ids");
}

TEST(GraphVerify, WantsInputsDefined) {
  Graph graph = small_graph();
  graph.input = graph.output;
  EXPECT_EQ(error_of([&] { verify(graph); }),
            "[embedding] embed: input %0 is read before it is written");
}

TEST(GraphVerify, WantsOneAttentionNodeALayer) {
  Graph graph = small_graph();
  const ValueId x = graph.node(0).output;
  Graph twice = graph;
  twice.add(Op::kGroupQueryAttention, "second", 0, {x, x, x}, attention(2, 2, 4));
  EXPECT_EQ(error_of([&] { verify(twice); }),
            "[group_query_attention] second: layer 0 has an attention node already, attn");
  Graph outside = graph;
  outside.add(Op::kGroupQueryAttention, "loose", -1, {x, x, x}, attention(2, 2, 4));
  EXPECT_EQ(error_of([&] { verify(outside); }),
            "[group_query_attention] loose: expected to be in a layer");
  graph.add(Op::kSilu, "lonely", 1, {x});
  EXPECT_EQ(error_of([&] { verify(graph); }), "[silu] lonely: layer 1 has no attention node");
}

TEST(GraphDump, ShowsOneLineANode) {
  EXPECT_EQ(dump(small_graph()),
            "%1 = Embedding(%0) embed F32 [5, 8] -> [tokens, 8]\n"
            "%2 = Linear(%1) q f32 [8, 8] -> [tokens, 8]\n"
            "%3 = Linear(%1) k f32 [4, 8] -> [tokens, 4]\n"
            "%4 = RotaryEmbedding(%3) k_rotary 1 x 4 -> [tokens, 4]\n"
            "%5 = GroupQueryAttention(%2, %4, %3) attn 2:1 x 4 scale 0.5 -> [tokens, 8]\n"
            "%6 = Add(%1, %5) residual -> [tokens, 8]\n"
            "%7 = SelectRows(%6) select -> [selected, 8]\n"
            "%8 = Linear(%7) head f32 [5, 8] -> [selected, 5]\n");
}

TEST(GraphDump, ShowsWhatIsUnusual) {
  Start start;
  Graph& g = start.graph;
  LinearAttributes biased{Int4Groups{.n = 8, .k = 8, .group = 32}, ones({8})};
  const ValueId q = g.add(Op::kLinear, "q", 0, {start.x}, biased);
  RotaryAttributes partial = rotary(1, 8);
  partial.inverse_frequencies.resize(2);
  partial.attention_factor = 1.25F;
  const ValueId turned = g.add(Op::kRotaryEmbedding, "rope", 0, {q}, partial);
  AttentionAttributes windowed = attention(1, 1, 8);
  windowed.window = 16;
  windowed.softcap = 50;
  g.add(Op::kGroupQueryAttention, "attn", 0, {turned, q, q}, windowed);
  const std::string text = dump(g);
  EXPECT_NE(text.find("Linear(%1) q int4 g32 [8, 8] + bias -> [tokens, 8]"), std::string::npos)
      << text;
  EXPECT_NE(text.find("rope 1 x 8 rotary 4 factor 1.25 ->"), std::string::npos) << text;
  EXPECT_NE(text.find("attn 1:1 x 8 scale 0.5 window 16 softcap 50 ->"), std::string::npos) << text;
  partial.extension.original_context = 32;
  const ValueId normed = g.add(Op::kRmsNorm, "norm", 0, {q}, RmsNormAttributes{ones({4}), 0, 2});
  const ValueId opened = g.add(Op::kGelu, "act", 0, {normed});
  g.add(Op::kRotaryEmbedding, "far", 0, {opened}, partial);
  g.add(Op::kSoftcap, "cap", 0, {opened}, SoftcapAttributes{30});
  const std::string more = dump(g);
  EXPECT_NE(more.find("RmsNorm(%2) norm epsilon 0 heads 2 ->"), std::string::npos) << more;
  EXPECT_NE(more.find("GELU(%5) act ->"), std::string::npos) << more;
  EXPECT_NE(more.find("far 1 x 8 rotary 4 factor 1.25 extended beyond 32 ->"), std::string::npos)
      << more;
  EXPECT_NE(more.find("Softcap(%6) cap cap 30 ->"), std::string::npos) << more;
}

TEST(GraphOp, HasAName) {
  for (const Op op :
       {Op::kEmbedding, Op::kLinear, Op::kRmsNorm, Op::kRotaryEmbedding, Op::kGroupQueryAttention,
        Op::kSilu, Op::kGelu, Op::kMul, Op::kAdd, Op::kSoftcap, Op::kSelectRows})
    EXPECT_NE(to_string(op), "Unknown");
}

}  // namespace
}  // namespace tandem
