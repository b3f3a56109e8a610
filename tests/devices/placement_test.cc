// Which device runs which operator, why, and the resulting segments.
#include <gtest/gtest.h>

#include "devices/small_graph.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::small_graph;
using testing::SmallWeights;

// A device with one answer for every node.
class Opinionated : public Device {
 public:
  Opinionated(std::string name, bool claims, std::string reason)
      : name_(std::move(name)), claims_(claims), reason_(std::move(reason)) {}
  std::string_view name() const noexcept override { return name_; }
  Offer offer(const Graph& graph, const PhaseSpec&) const override {
    Offer offer;
    for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
      if (claims_) {
        offer.claims.push_back({{id}, {reason_}, {1, 2}});
      } else {
        offer.refusals.push_back({id, reason_});
      }
    }
    return offer;
  }
  std::unique_ptr<Program> compile(const Graph&, const CompileContext&) const override {
    return nullptr;
  }

 private:
  std::string name_;
  bool claims_;
  std::string reason_;
};

// A device that offers what it was given.
class Fixed : public Device {
 public:
  explicit Fixed(Offer offer) : offer_(std::move(offer)) {}
  std::string_view name() const noexcept override { return "fixed"; }
  Offer offer(const Graph&, const PhaseSpec&) const override { return offer_; }
  std::unique_ptr<Program> compile(const Graph&, const CompileContext&) const override {
    return nullptr;
  }

 private:
  Offer offer_;
};

constexpr PhaseSpec kPrefill{Phase::kPrefill, 16};
constexpr PhaseSpec kDecode{Phase::kDecode, 1};

class PlacementTest : public ::testing::Test {
 protected:
  std::vector<const Device*> both() const { return {&npu_, &cpu_}; }

  NpuHostDevice npu_{testing::reference()};
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
  const Placement placement = place(graph, kPrefill, both());
  ASSERT_EQ(placement.nodes.size(), graph.nodes().size());
  EXPECT_EQ(placement.devices, (std::vector<std::string>{"npu", "cpu"}));
  for (std::size_t i = 0; i < graph.nodes().size(); ++i) {
    const Node& node = graph.nodes()[i];
    const bool on_npu = (node.op == Op::kLinear && node.layer >= 0) || node.op == Op::kQuantize ||
                        node.op == Op::kDequantize || node.op == Op::kSilu || node.op == Op::kMul;
    EXPECT_EQ(placement.nodes[i].device, on_npu ? 0U : 1U) << node.name;
  }
  // Embedding and angles; norm, qkv, attention, o, residual and norm, mlp, residual of two blocks;
  // the end.
  ASSERT_EQ(placement.segments.size(), 1U + 2U * 7U + 1U);
  std::vector<bool> written(graph.values().size(), false);
  for (const ValueId input : graph.inputs()) written[static_cast<std::size_t>(input)] = true;
  std::size_t nodes = 0;
  for (const Segment& segment : placement.segments) {
    ASSERT_FALSE(segment.nodes.empty());
    EXPECT_EQ(segment.beside, 0U);
    EXPECT_TRUE(std::ranges::is_sorted(segment.nodes));
    nodes += segment.nodes.size();
    for (const NodeId id : segment.nodes) {
      EXPECT_EQ(placement.nodes[static_cast<std::size_t>(id)].device, segment.device);
      EXPECT_EQ(graph.node(id).layer, graph.node(segment.nodes.front()).layer);
      for (const ValueId input : graph.node(id).inputs)
        EXPECT_TRUE(written[static_cast<std::size_t>(input)]) << graph.node(id).name;
      for (const ValueId output : graph.node(id).outputs)
        written[static_cast<std::size_t>(output)] = true;
    }
  }
  EXPECT_EQ(nodes, graph.nodes().size());
  // What the NPU runs, and what is left to the CPU: the head.
  EXPECT_EQ(placement.costs[1].multiply_adds, 16.0 * 70 * 96);
  EXPECT_EQ(placement.costs[0].multiply_adds,
            2 * 16.0 * (96 * (96 + 2 * 48) + 96 * 96 + 3 * 96 * 160));
}

// A shadow needs what its module reads, not the product on the NPU beside it.
TEST_F(PlacementTest, LetsShadowsRunBesideTheNpu) {
  const Graph graph = small_graph(SmallWeights::kInt8, {.layers = 1, .shadows = true});
  const Placement placement = place(graph, kPrefill, both());
  std::vector<std::string> segments;
  for (const Segment& segment : placement.segments) {
    std::string text = placement.devices[segment.device] + ":";
    for (const NodeId id : segment.nodes) {
      const std::string& name = graph.node(id).name;
      if (graph.node(id).op != Op::kDequantize && graph.node(id).op != Op::kQuantize)
        text += " " + name.substr(name.find_last_of("0123456789") + 1);
    }
    if (segment.beside > 0) text += fmt::format(" (beside {})", segment.beside);
    segments.push_back(text);
  }
  EXPECT_EQ(segments,
            (std::vector<std::string>{
                "cpu: embed angles", "cpu: .norm", "npu: .q .k .v",
                "cpu: .q.shadow .k.shadow .v.shadow (beside 1)",
                "cpu: .q.sum .k.sum .v.sum .q_rotary .k_rotary .attention", "npu: .o",
                "cpu: .o.shadow (beside 1)", "cpu: .o.sum .attention_residual .norm",
                "npu: .gate .up", "cpu: .gate.shadow .up.shadow (beside 1)",
                "cpu: .gate.sum .up.sum .act .mul", "npu: .down", "cpu: .down.shadow (beside 1)",
                "cpu: .down.sum .mlp_residual", "cpu: select .norm head"}));
}

// Where the NPU computes what a shadow reads, it goes on beside it.
TEST_F(PlacementTest, EndsASegmentBehindWhatBothDevicesRead) {
  testing::Random random(1);
  Graph graph;
  const ValueId x = graph.add_input({.name = "x", .width = 64});
  const auto linear = [&](const char* name, ValueId input, std::int64_t n, std::int64_t k) {
    const ValueId codes = graph.add(Op::kQuantize, std::string(name) + ".codes", 0, {input},
                                    QuantizeAttributes{0.05F});
    return add_static_int8(graph, name, 0, codes, testing::int8_weight(random, n, k), {});
  };
  const ValueId opened = graph.add(Op::kSilu, "act", 0, {linear("up", x, 32, 64)});
  const ValueId down = linear("down", opened, 16, 32);
  ShadowLinearAttributes shadow = make_whole_shadow(testing::int8_weight(random, 16, 32));
  shadow.scale = 0.05F;
  const ValueId clipped = graph.add(Op::kShadowLinear, "shadow", 0, {opened}, std::move(shadow));
  graph.set_outputs({graph.add(Op::kAdd, "sum", 0, {down, clipped})});
  const Placement placement = place(graph, kPrefill, both());
  ASSERT_EQ(placement.segments.size(), 4U);
  const std::size_t devices[] = {0, 0, 1, 1}, nodes[] = {4, 3, 1, 1}, beside[] = {0, 0, 1, 0};
  for (std::size_t s = 0; s < 4; ++s) {
    EXPECT_EQ(placement.segments[s].device, devices[s]) << s;
    EXPECT_EQ(placement.segments[s].nodes.size(), nodes[s]) << s;
    EXPECT_EQ(placement.segments[s].beside, beside[s]) << s;
  }
}

TEST_F(PlacementTest, SaysWhy) {
  const Graph graph = small_graph(SmallWeights::kInt8);
  const Placement placement = place(graph, kPrefill, both());
  const auto reason = [&](const char* name) { return placed(graph, placement, name).reason; };
  EXPECT_EQ(reason("layers.0.q"), "npu: static int8");
  EXPECT_EQ(reason("layers.1.act"), "npu: between int8 Linears");
  EXPECT_EQ(reason("layers.1.attention"), "npu: reads a cache whose length changes; cpu: float32");
  EXPECT_EQ(reason("head"), "npu: rows that depend on the data; cpu: float weights");
  EXPECT_EQ(reason("layers.0.q.quantize"), "npu: static int8");
  EXPECT_NE(reason("layers.0.norm").find("float32 on the CPU"), std::string::npos);
}

TEST_F(PlacementTest, GivesOneDeviceOneSegmentOfEachBlock) {
  const Graph graph = small_graph(SmallWeights::kInt8);
  const std::vector<const Device*> cpu = {&cpu_};
  const Placement placement = place(graph, kDecode, cpu);
  EXPECT_EQ(placement.segments.size(), 4U);  // embedding, two blocks, the end
  EXPECT_EQ(placement.spec.rows, 1);
  EXPECT_EQ(placed(graph, placement, "layers.0.q").reason, "int8 weights, int8 activations");
  EXPECT_EQ(placed(graph, placement, "layers.0.q.quantize").reason, "integers");
  EXPECT_EQ(placed(graph, placement, "layers.0.act").reason, "float32");
}

TEST_F(PlacementTest, KeepsFloatAndInt4OffTheNpu) {
  for (const SmallWeights kind :
       {SmallWeights::kFloat, SmallWeights::kInt4, SmallWeights::kDynamicInt8}) {
    const Graph graph = small_graph(kind);
    const Placement placement = place(graph, kPrefill, both());
    for (const PlacedNode& node : placement.nodes) EXPECT_EQ(node.device, 1U);
    EXPECT_EQ(placed(graph, placement, "layers.0.act").reason,
              "npu: not between int8 Linears; cpu: float32");
  }
}

// One float Linear beside the gate takes the product away from the NPU, not the activation.
TEST_F(PlacementTest, FollowsValuesThroughActivationsAndProducts) {
  testing::Random random(1);
  Graph graph;
  const ValueId x = graph.add_input({.name = "x", .width = 64});
  const ValueId codes = graph.add(Op::kQuantize, "codes", 0, {x}, QuantizeAttributes{0.05F});
  const ValueId gate =
      add_static_int8(graph, "gate", 0, codes, testing::int8_weight(random, 32, 64), {});
  const ValueId up =
      graph.add(Op::kLinear, "up", 0, {x},
                LinearAttributes{testing::float_weight(random, 32, 64, DType::kF32), {}});
  const ValueId opened = graph.add(Op::kSilu, "act", 0, {gate});
  graph.set_outputs({graph.add(Op::kMul, "mul", 0, {opened, up})});
  const Placement placement = place(graph, kPrefill, both());
  EXPECT_EQ(placed(graph, placement, "gate").device, 0U);
  EXPECT_EQ(placed(graph, placement, "up").device, 1U);
  EXPECT_EQ(placed(graph, placement, "act").device, 0U);
  EXPECT_EQ(placed(graph, placement, "mul").device, 1U);
}

TEST_F(PlacementTest, JoinsEqualRowsOfTheTable) {
  const Graph graph = small_graph(SmallWeights::kInt8);
  const std::string table = to_table(graph, place(graph, kPrefill, both()));
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
  const Opinionated lazy("lazy", false, "it is Monday");
  const Opinionated broken("broken", false, "it is out of order");
  const std::vector<const Device*> devices = {&lazy, &broken};
  const std::string error = error_of([&] { place(graph, kPrefill, devices); });
  for (const char* part :
       {"[placement] embed", "prefill", "lazy: it is Monday; broken: it is out of order"})
    EXPECT_NE(error.find(part), std::string::npos) << error;
  EXPECT_NE(error_of([&] { place(graph, kDecode, {}); }).find("no device runs"), std::string::npos);
}

TEST_F(PlacementTest, TakesTheFirstDeviceThatAgrees) {
  const Graph graph = small_graph(SmallWeights::kInt8);
  const Opinionated eager("eager", true, "gladly");
  const std::vector<const Device*> devices = {&eager, &npu_, &cpu_};
  for (const PlacedNode& node : place(graph, kPrefill, devices).nodes) {
    EXPECT_EQ(node.device, 0U);
    EXPECT_EQ(node.reason, "eager: gladly");
  }
  const std::vector<const Device*> one = {&eager};
  EXPECT_EQ(place(graph, kPrefill, one).nodes.front().reason, "gladly");
}

// A claim is given as a whole or not at all.
TEST_F(PlacementTest, LeavesAClaimThatOverlapsAnEarlierOne) {
  const Graph graph = small_graph(SmallWeights::kFloat);
  const Fixed first(Offer{{{{1, 2}, {"mine"}, {}}}, {{0, "not for me"}}});
  const Fixed second(Offer{{{{2, 3}, {"mine too", "and this"}, {}}, {{4}, {"alone"}, {}}}, {}});
  const std::vector<const Device*> devices = {&first, &second, &cpu_};
  const Placement placement = place(graph, kPrefill, devices);
  EXPECT_EQ(placement.nodes[0].device, 2U);
  EXPECT_EQ(placement.nodes[0].reason, "fixed: not for me; cpu: float32");
  EXPECT_EQ(placement.nodes[1].device, 0U);
  EXPECT_EQ(placement.nodes[2].device, 0U);
  // A device that says too little.
  EXPECT_EQ(placement.nodes[2].reason, "fixed: claimed");
  EXPECT_EQ(placement.nodes[3].device, 2U);
  EXPECT_EQ(placement.nodes[4].device, 1U);
}

TEST_F(PlacementTest, RefusesOffersOfNodesThatAreNotThere) {
  const Graph graph = small_graph(SmallWeights::kFloat);
  for (const NodeId id : {-1, 1000}) {
    const Fixed claims(Offer{{{{id}, {""}, {}}}, {}});
    const Fixed refuses(Offer{{}, {{id, ""}}});
    for (const Fixed* device : {&claims, &refuses}) {
      const std::vector<const Device*> devices = {device, &cpu_};
      EXPECT_EQ(error_of([&] { place(graph, kPrefill, devices); }),
                fmt::format("[placement] fixed offers node {} of {}", id, graph.nodes().size()));
    }
  }
}

}  // namespace
}  // namespace tandem
