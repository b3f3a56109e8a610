// Which device runs which operator, why, and the segments that follow.
#include <gtest/gtest.h>

#include "devices/small_graph.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::small_graph;
using testing::SmallWeights;

// A device with an answer for everything.
class Opinionated : public Device {
 public:
  Opinionated(std::string name, Support support)
      : name_(std::move(name)), support_(std::move(support)) {}
  std::string_view name() const noexcept override { return name_; }
  Support supports(const Graph&, const Node&, Phase) const override { return support_; }
  std::unique_ptr<Program> compile(const Graph&, NodeId, NodeId,
                                   const CompileContext&) const override {
    return nullptr;
  }

 private:
  std::string name_;
  Support support_;
};

class PlacementTest : public ::testing::Test {
 protected:
  std::vector<const Device*> both() const { return {&npu_, &cpu_}; }

  NpuHostDevice npu_{testing::reference(), 16};
  CpuDevice cpu_{testing::reference()};
};

const PlacedNode& placed(const Graph& graph, const Placement& placement, const std::string& name) {
  for (std::size_t i = 0; i < graph.nodes().size(); ++i)
    if (graph.nodes()[i].name == name) return placement.nodes[i];
  ADD_FAILURE() << "no node " << name;
  return placement.nodes.front();
}

TEST_F(PlacementTest, GivesTheNpuThreeSegmentsOfEachBlock) {
  const Graph graph = small_graph(SmallWeights::kInt8);
  const Placement placement = place(graph, Phase::kPrefill, both());
  ASSERT_EQ(placement.nodes.size(), graph.nodes().size());
  EXPECT_EQ(placement.devices, (std::vector<std::string>{"npu", "cpu"}));
  for (std::size_t i = 0; i < graph.nodes().size(); ++i) {
    const Node& node = graph.nodes()[i];
    const bool on_npu =
        (node.op == Op::kLinear && node.layer >= 0) || node.op == Op::kSilu || node.op == Op::kMul;
    EXPECT_EQ(placement.nodes[i].device, on_npu ? 0U : 1U) << node.name;
  }
  // Embedding; norm, qkv, attention, o, residual and norm, mlp, residual of two blocks; the end.
  ASSERT_EQ(placement.segments.size(), 1U + 2U * 7U + 1U);
  NodeId next = 0;
  for (const Segment& segment : placement.segments) {
    EXPECT_EQ(segment.begin, next);
    ASSERT_LT(segment.begin, segment.end);
    next = segment.end;
    for (NodeId id = segment.begin; id < segment.end; ++id) {
      EXPECT_EQ(placement.nodes[static_cast<std::size_t>(id)].device, segment.device);
      EXPECT_EQ(graph.node(id).layer, graph.node(segment.begin).layer);
    }
  }
  EXPECT_EQ(next, static_cast<NodeId>(graph.nodes().size()));
}

TEST_F(PlacementTest, SaysWhy) {
  const Graph graph = small_graph(SmallWeights::kInt8);
  const Placement placement = place(graph, Phase::kPrefill, both());
  const auto reason = [&](const char* name) { return placed(graph, placement, name).reason; };
  EXPECT_EQ(reason("layers.0.q"), "npu: static int8");
  EXPECT_EQ(reason("layers.1.act"), "npu: between int8 Linears");
  EXPECT_EQ(reason("layers.1.attention"), "npu: reads a cache whose length changes; cpu: float32");
  EXPECT_EQ(reason("head"), "npu: weight is not int8; cpu: float weights");
  EXPECT_NE(reason("layers.0.norm").find("float32 on the CPU"), std::string::npos);
}

TEST_F(PlacementTest, LeavesDecodeToTheCpu) {
  const Graph graph = small_graph(SmallWeights::kInt8);
  const Placement placement = place(graph, Phase::kDecode, both());
  for (const PlacedNode& node : placement.nodes) {
    EXPECT_EQ(node.device, 1U);
    EXPECT_EQ(node.reason.rfind("npu: decode: ", 0), 0U) << node.reason;
  }
  EXPECT_EQ(placement.segments.size(), 4U);  // embedding, two blocks, the end
}

TEST_F(PlacementTest, KeepsFloatAndInt4OffTheNpu) {
  for (const SmallWeights kind : {SmallWeights::kFloat, SmallWeights::kInt4}) {
    const Graph graph = small_graph(kind);
    const Placement placement = place(graph, Phase::kPrefill, both());
    for (const PlacedNode& node : placement.nodes) EXPECT_EQ(node.device, 1U);
    EXPECT_EQ(placed(graph, placement, "layers.0.act").reason,
              "npu: not between int8 Linears; cpu: float32");
  }
}

// One float Linear beside the gate takes the product away from the NPU, not the activation.
TEST_F(PlacementTest, FollowsValuesThroughActivationsAndProducts) {
  testing::Random random(1);
  Graph graph;
  graph.add_input("ids");
  const auto table = Tensor::from_floats(testing::normal_floats(random, 5 * 64), {5, 64});
  const ValueId x =
      graph.add(Op::kEmbedding, "embed", -1, {graph.input}, EmbeddingAttributes{table});
  const auto linear = [&](const char* name, Weight weight) {
    return graph.add(Op::kLinear, name, 0, {x}, LinearAttributes{std::move(weight), {}});
  };
  const ValueId gate = linear("gate", testing::int8_weight(random, 32, 64));
  const ValueId up = linear("up", testing::float_weight(random, 32, 64, DType::kF32));
  const ValueId opened = graph.add(Op::kSilu, "act", 0, {gate});
  graph.output = graph.add(Op::kMul, "mul", 0, {opened, up});
  const Placement placement = place(graph, Phase::kPrefill, both());
  EXPECT_EQ(placed(graph, placement, "gate").device, 0U);
  EXPECT_EQ(placed(graph, placement, "up").device, 1U);
  EXPECT_EQ(placed(graph, placement, "act").device, 0U);
  EXPECT_EQ(placed(graph, placement, "mul").device, 1U);
}

TEST_F(PlacementTest, JoinsEqualRowsOfTheTable) {
  const Graph graph = small_graph(SmallWeights::kInt8);
  const std::string table = to_table(graph, place(graph, Phase::kPrefill, both()));
  EXPECT_EQ(table.rfind("prefill (16 segments)\n", 0), 0U) << table;
  // Both blocks' queries in one row, and each module once.
  EXPECT_NE(
      table.find("\n  q                   Linear                   2  npu     npu: static int8\n"),
      std::string::npos)
      << table;
  EXPECT_EQ(table.find("layers.1"), std::string::npos) << table;
}

TEST_F(PlacementTest, NamesTheNodeThatNoDeviceRuns) {
  const Graph graph = small_graph(SmallWeights::kFloat);
  const Opinionated lazy("lazy", {false, "it is Monday"});
  const Opinionated broken("broken", {false, "it is out of order"});
  const std::vector<const Device*> devices = {&lazy, &broken};
  const std::string error = error_of([&] { place(graph, Phase::kPrefill, devices); });
  for (const char* part :
       {"[placement] embed", "prefill", "lazy: it is Monday; broken: it is out of order"})
    EXPECT_NE(error.find(part), std::string::npos) << error;
  EXPECT_NE(error_of([&] { place(graph, Phase::kDecode, {}); }).find("no device runs"),
            std::string::npos);
}

TEST_F(PlacementTest, TakesTheFirstDeviceThatAgrees) {
  const Graph graph = small_graph(SmallWeights::kInt8);
  const Opinionated eager("eager", {true, "gladly"});
  const std::vector<const Device*> devices = {&eager, &npu_, &cpu_};
  for (const PlacedNode& node : place(graph, Phase::kPrefill, devices).nodes) {
    EXPECT_EQ(node.device, 0U);
    EXPECT_EQ(node.reason, "eager: gladly");
  }
  const std::vector<const Device*> one = {&eager};
  EXPECT_EQ(place(graph, Phase::kPrefill, one).nodes.front().reason, "gladly");
}

// Weights that pass validate() but that no integer kernel computes exactly.
TEST_F(PlacementTest, RefusesInt8ThatCannotBeExact) {
  const auto error = [&](std::int64_t k, float input_scale) {
    testing::Random random(1);
    Graph graph;
    graph.add_input("ids");
    const auto table = Tensor::from_floats(std::vector<float>(static_cast<std::size_t>(k)), {1, k});
    const ValueId x =
        graph.add(Op::kEmbedding, "embed", -1, {graph.input}, EmbeddingAttributes{table});
    Int8Channels weight = testing::int8_weight(random, 2, k);
    weight.input_scale = input_scale;
    graph.output = graph.add(Op::kLinear, "wide", 0, {x}, LinearAttributes{weight, {}});
    return error_of([&] { place(graph, Phase::kPrefill, both()); });
  };
  EXPECT_NE(error(kMaxInt8K + 64, 0.1F).find("K = 65600: int32 sums are exact up to 65536"),
            std::string::npos);
  EXPECT_NE(error(64, 0).find("cpu: int8 weight without a static input scale"), std::string::npos);
}

}  // namespace
}  // namespace tandem
