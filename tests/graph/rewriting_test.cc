// What passes are made of: who uses a value, making one graph from another, running a list of
// passes, and parts of a graph.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "graph/every_operator.h"
#include "graph/extract.h"
#include "graph/pass.h"
#include "graph/rewriter.h"
#include "graph/small_parts.h"
#include "graph/uses.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::EveryOperator;
using testing::ones;
using testing::small_block;
using testing::Start;
using testing::weight;

using Ids = std::vector<ValueId>;

Ids list(std::span<const NodeId> nodes) { return {nodes.begin(), nodes.end()}; }

NodeId id_of(const Graph& graph, const std::string& name) {
  const auto found = std::ranges::find(graph.nodes(), name, &Node::name);
  EXPECT_NE(found, graph.nodes().end()) << name;
  return static_cast<NodeId>(found - graph.nodes().begin());
}

// A graph in which x is read twice by one node, and one value by nobody.
TEST(Uses, KnowsWritersAndReaders) {
  Start start;
  Graph& g = start.graph;
  const ValueId square = g.add(Op::kMul, "square", 0, {start.x, start.x});
  const auto codes = g.add_node(Op::kDynamicQuantize, "codes", 0, {start.x});
  const ValueId sum = g.add(Op::kAdd, "sum", 0, {square, start.x});
  g.set_outputs({sum, square});
  const Uses uses(g);
  EXPECT_EQ(uses.producer(start.ids), -1);
  EXPECT_EQ(uses.producer(start.selected), -1);
  EXPECT_EQ(uses.producer(start.x), 0);
  EXPECT_EQ(uses.producer(codes[0]), 2);
  EXPECT_EQ(uses.producer(codes[1]), 2);
  EXPECT_EQ(list(uses.readers(start.ids)), Ids{0});
  EXPECT_EQ(list(uses.readers(start.x)), (Ids{1, 2, 3}));
  EXPECT_EQ(list(uses.readers(square)), Ids{3});
  EXPECT_TRUE(uses.readers(codes[1]).empty());
  EXPECT_TRUE(uses.is_output(sum));
  EXPECT_TRUE(uses.is_output(square));
  EXPECT_FALSE(uses.is_output(start.x));
}

Graph copy_of(const Graph& graph) {
  Rewriter rewriter(graph);
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) rewriter.copy(id);
  return std::move(rewriter).finish();
}

TEST(Rewriter, CopiesAWholeGraph) {
  const Graph graph = EveryOperator::build();
  const Graph copy = copy_of(graph);
  EXPECT_EQ(dump(copy), dump(graph));
  EXPECT_EQ(copy.inputs(), graph.inputs());
  EXPECT_EQ(copy.outputs(), graph.outputs());
  EXPECT_EQ(copy.row_spaces(), graph.row_spaces());
}

TEST(Rewriter, ReplacesValues) {
  const Graph graph = small_block();
  const NodeId q = id_of(graph, "q");
  Rewriter rewriter(graph);
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    if (id != q) {
      rewriter.copy(id);
      continue;
    }
    const ValueId half =
        rewriter.add(Op::kLinear, "q.half", 0, {rewriter(node.inputs[0])}, weight(4, 8));
    rewriter.replace(node.output(), rewriter.add(Op::kLinear, "q.whole", 0, {half}, weight(8, 4)));
    EXPECT_EQ(rewriter.graph().nodes().back().name, "q.whole");
  }
  const Graph made = std::move(rewriter).finish();
  EXPECT_EQ(made.nodes().size(), graph.nodes().size() + 1);
  const Node& attention = made.node(id_of(made, "attn"));
  EXPECT_EQ(attention.inputs[0], made.node(id_of(made, "q.whole")).output());
  EXPECT_EQ(made.outputs().size(), 1U);
}

TEST(Rewriter, CopiesWithOtherAttributes) {
  const Graph graph = small_block();
  Rewriter rewriter(graph);
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    if (graph.node(id).name == "head") {
      rewriter.copy(id, weight(9, 8));
    } else {
      rewriter.copy(id);
    }
  }
  const Graph made = std::move(rewriter).finish();
  EXPECT_EQ(made.value(made.outputs()[0]).width, 9);
}

TEST(Rewriter, NamesTheValueWhoseNodeWasLeftOut) {
  const Graph graph = small_block();
  Rewriter rewriter(graph);
  rewriter.copy(0);
  EXPECT_EQ(error_of([&] { rewriter.copy(id_of(graph, "residual")); }),
            "[rewriter] nothing stands for %7 attn: its node was left out");
  EXPECT_EQ(error_of([&] { std::move(rewriter).finish(); }),
            "[rewriter] nothing stands for %10 head: its node was left out");
}

TEST(Rewriter, RejectsNodesThatDoNotFitTheNewGraph) {
  const Graph graph = small_block();
  Rewriter rewriter(graph);
  rewriter.copy(0);
  EXPECT_EQ(error_of([&] { rewriter.copy(id_of(graph, "q"), weight(8, 4)); }),
            "[linear] q: expected K = 4, got 8");
}

TEST(Rewriter, VerifiesWhatItMade) {
  const Graph graph = small_block();
  Rewriter rewriter(graph);
  // The output is to be an input: no node writes it.
  rewriter.replace(graph.outputs()[0], rewriter(graph.inputs()[0]));
  EXPECT_EQ(error_of([&] { std::move(rewriter).finish(); }),
            "[graph] no node writes the output, %0 input_ids");
}

class Passes : public ::testing::Test {
 protected:
  // A pass that adds a SiLU behind the output.
  static Pass opens(const std::string& name) {
    return {name, [name](const Graph& graph, PassContext&) {
              Graph made = graph;
              made.set_outputs({made.add(Op::kSilu, name, -1, {graph.outputs()[0]})});
              return made;
            }};
  }
  static Pass breaks(const std::string& name, std::function<Graph(const Graph&)> how) {
    return {name, [how = std::move(how)](const Graph& graph, PassContext&) { return how(graph); }};
  }

  ThreadPool pool_{1};
  PassContext context_{pool_, silent()};
};

TEST_F(Passes, RunInOrderEachOnTheGraphBefore) {
  const std::vector<Pass> passes = {opens("first"), opens("second")};
  const Graph graph = small_block();
  const Graph made = run_passes(graph, passes, context_);
  ASSERT_EQ(made.nodes().size(), graph.nodes().size() + 2);
  EXPECT_EQ(made.nodes().back().name, "second");
  EXPECT_EQ(made.nodes().back().inputs[0], made.node(id_of(made, "first")).output());
  ASSERT_EQ(context_.timings.size(), 2U);
  EXPECT_EQ(context_.timings[0].pass, "first");
  EXPECT_EQ(context_.timings[1].pass, "second");
  for (const auto& timing : context_.timings) EXPECT_GE(timing.seconds, 0);
  EXPECT_EQ(dump(run_passes(graph, {}, context_)), dump(graph));
}

TEST_F(Passes, AreStoppedWhereTheyBreakTheGraph) {
  bool ran = false;
  const auto error = [&](std::function<Graph(const Graph&)> how) {
    const std::vector<Pass> passes = {opens("good"), breaks("bad", std::move(how)),
                                      breaks("after", [&](const Graph& graph) {
                                        ran = true;
                                        return graph;
                                      })};
    context_.timings.clear();
    try {
      run_passes(small_block(), passes, context_);
    } catch (const Error& thrown) {
      EXPECT_EQ(thrown.code(), ErrorCode::kInternal);
      EXPECT_FALSE(ran) << "a pass ran on a broken graph";
      EXPECT_EQ(context_.timings.size(), 1U);
      return std::string(thrown.what());
    }
    ADD_FAILURE() << "expected an error";
    return std::string();
  };
  EXPECT_EQ(error([](const Graph& graph) {
              Graph made = graph;
              made.set_outputs({});
              return made;
            }),
            "[pass bad] [graph] the output is missing");
  EXPECT_EQ(error([](const Graph&) { return Graph(); }), "[pass bad] [graph] the input is missing");
  // A weight that is not what it was when its node was added.
  EXPECT_EQ(error([](const Graph& graph) {
              Graph made = graph;
              const ValueId x = made.node(0).output();
              const ValueId codes =
                  made.add(Op::kQuantize, "codes", -1, {x}, QuantizeAttributes{0.5F});
              ChannelCodes changing = testing::int8(4, 8, {1});
              std::byte* scale = nullptr;
              changing.scales = Tensor::allocate(DType::kF32, {1}, &scale);
              std::fill_n(scale, 4, std::byte{0x3F});
              const ValueId sums =
                  made.add(Op::kLinear, "wrong", -1, {codes}, LinearAttributes{changing, {}});
              std::fill_n(scale, 4, std::byte{0x40});
              made.set_outputs({sums});
              return made;
            }),
            "[pass bad] [linear] wrong: the scale of %13 is not that of its node");
}

TEST_F(Passes, PassOnWhatAPassThrows) {
  const std::vector<Pass> passes = {breaks(
      "failing", [](const Graph&) -> Graph { fail(ErrorCode::kNotFound, "[test] no samples"); })};
  EXPECT_EQ(error_of([&] { run_passes(small_block(), passes, context_); }), "[test] no samples");
}

TEST_F(Passes, StopBetweenTwoWhenTheyAreNoLongerWanted) {
  class Impatient : public Observer {
   public:
    bool cancelled() const override { return wanted == 0; }
    int wanted = 1;
  };
  Impatient observer;
  PassContext context{pool_, observer};
  const std::vector<Pass> passes = {breaks("first",
                                           [&](const Graph& graph) {
                                             --observer.wanted;
                                             return graph;
                                           }),
                                    opens("second")};
  try {
    run_passes(small_block(), passes, context);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled);
    EXPECT_STREQ(error.what(), "[passes] interrupted before second");
  }
  EXPECT_EQ(context.timings.size(), 1U);
}

TEST_F(Passes, DumpTheGraphAfterTheOneThatIsNamed) {
  std::vector<std::string> dumps;
  context_.dump = [&](const Graph& graph) { dumps.push_back(graph.nodes().back().name); };
  const std::vector<Pass> passes = {opens("first"), opens("second"), opens("third")};
  run_passes(small_block(), passes, context_);
  EXPECT_TRUE(dumps.empty());
  context_.dump_after = "second";
  run_passes(small_block(), passes, context_);
  EXPECT_EQ(dumps, std::vector<std::string>{"second"});
  context_.dump = {};
  EXPECT_NO_THROW(run_passes(small_block(), passes, context_));
}

TEST(Extract, TakesAPartWithItsBorders) {
  const Graph graph = small_block();
  const NodeId k = id_of(graph, "k");
  const std::vector<NodeId> nodes = {k, id_of(graph, "k_rotary"), id_of(graph, "attn")};
  const Extracted part = extract(graph, nodes);
  // x, the angles, q: in the order in which they are first read.
  EXPECT_EQ(part.inputs, (Ids{2, 3, 4}));
  EXPECT_EQ(part.outputs, Ids{7});
  EXPECT_EQ(part.graph.row_spaces(), graph.row_spaces());
  EXPECT_EQ(part.graph.inputs().size(), 3U);
  ASSERT_EQ(part.graph.outputs().size(), 1U);
  EXPECT_EQ(dump(part.graph),
            "%3 = Linear(%0) k f32 [4, 8] -> [tokens, 4]\n"
            "%4 = RotaryEmbedding(%3, %1) k_rotary 1 x 4 -> [tokens, 4]\n"
            "%5 = GroupQueryAttention(%2, %4, %3) attn 2:1 x 4 scale 0.5 -> [tokens, 8]\n");
  EXPECT_NO_THROW(verify(part.graph));
  // Inside, but wanted.
  const std::vector<ValueId> wanted = {graph.node(k).output()};
  EXPECT_EQ(extract(graph, nodes, wanted).outputs, (Ids{5, 7}));
  // Read by a node outside.
  EXPECT_EQ(extract(graph, std::vector<NodeId>{k}).outputs, Ids{5});
}

TEST(Extract, GivesOutWhatTheSourceGivesOut) {
  const Graph graph = EveryOperator::build();
  std::vector<NodeId> all;
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) all.push_back(id);
  const Extracted whole = extract(graph, all);
  EXPECT_EQ(whole.inputs, graph.inputs());
  Ids outputs = graph.outputs();
  std::ranges::sort(outputs);
  EXPECT_EQ(whole.outputs, outputs);
  EXPECT_EQ(dump(whole.graph), dump(graph));
}

TEST(Extract, KeepsRowSpacesAndScales) {
  const Graph graph = EveryOperator::build();
  const Extracted last = extract(graph, std::vector<NodeId>{id_of(graph, "head")});
  EXPECT_EQ(last.graph.value(last.graph.inputs()[0]).rows, 1);
  EXPECT_EQ(last.graph.value(last.graph.outputs()[0]).rows, 1);
  // Codes that come in keep their scale, so that what is computed from them has the same.
  const Extracted sums = extract(graph, std::vector<NodeId>{id_of(graph, "o")});
  const Value& codes = sums.graph.value(sums.graph.inputs()[0]);
  ASSERT_TRUE(codes.quantization);
  EXPECT_EQ(codes.quantization->scales.as<float>()[0], 0.03F);
  const Value& original = graph.value(sums.outputs[0]);
  const Value& copied = sums.graph.value(sums.graph.outputs()[0]);
  EXPECT_TRUE(std::ranges::equal(original.quantization->scales.as<float>(),
                                 copied.quantization->scales.as<float>()));
}

TEST(Extract, WantsNodesInTheirOrder) {
  const Graph graph = small_block();
  const auto error = [&](std::vector<NodeId> nodes) {
    return error_of([&] { extract(graph, nodes); });
  };
  EXPECT_EQ(error({3, 2}), "[extract] node 2 after 3: expected nodes of the graph in its order");
  EXPECT_EQ(error({3, 3}), "[extract] node 3 after 3: expected nodes of the graph in its order");
  EXPECT_EQ(error({-1}), "[extract] node -1 after -1: expected nodes of the graph in its order");
  EXPECT_EQ(error({1, 100}),
            "[extract] node 100 after 1: expected nodes of the graph in its order");
}

}  // namespace
}  // namespace tandem
