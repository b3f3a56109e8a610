// Prefix tokens: found where outliers are tokens, and what they do to static int8.
#include "quantize/prefix_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "graph/rewriter.h"
#include "quantize/calibration.h"
#include "quantize/demo_graph.h"
#include "quantize/linear_weights.h"
#include "quantize/planted.h"
#include "quantize/quantize_linears.h"
#include "quantize/run_graph.h"

namespace tandem::testing {
namespace {

// Each window behind the prefix sees what it would see if both were one text.
TEST(BlockRunner, RunsWindowsBehindAPrefix) {
  class Products : public BlockVisitor {
   public:
    explicit Products(ValueId value) : value_(value) {}
    std::vector<float> rows;
    void batch(const BlockRunner& runner, std::int64_t first, std::int64_t count) override {
      const float* x = runner.rows_of(value_, first);
      if (x != nullptr) rows.insert(rows.end(), x, x + count * runner.graph().value(value_).width);
    }

   private:
    ValueId value_;
  };
  const DemoGraph demo;
  ThreadPool pool(2);
  CalibrationWindows windows = demo_windows(3, 10);
  windows.prefix = {4093, 17, 300};
  ValueId value = -1;
  for (const Node& node : demo.graph().nodes())
    if (node.name == "model.layers.3.mlp.down_proj") value = node.inputs[0];
  Products seen(value);
  BlockRunner(demo.graph(), windows, {value}, pool).run(seen, {});
  const std::int64_t width = demo.graph().value(value).width;
  ASSERT_EQ(seen.rows.size(), static_cast<std::size_t>(30 * width));
  Graph graph = demo.graph();
  graph.set_outputs({value});
  for (std::size_t w = 0; w < 3; ++w) {
    std::vector<std::int32_t> ids = windows.prefix;
    ids.insert(ids.end(), windows.ids.begin() + static_cast<std::ptrdiff_t>(w * 10),
               windows.ids.begin() + static_cast<std::ptrdiff_t>(w * 10 + 10));
    const std::vector<float> whole = run_graph(graph, ids);
    for (std::size_t i = 0; i < static_cast<std::size_t>(10 * width); ++i)
      ASSERT_NEAR(seen.rows[w * static_cast<std::size_t>(10 * width) + i],
                  whole[static_cast<std::size_t>(3 * width) + i], 1e-4)
          << w << " " << i;
  }
}

// ------------------------------------------------------------ planted tokens

constexpr std::size_t kChannel = 7;

// The demo without one channel of the MLPs of these layers.
Graph without_channel(const Graph& graph, const std::vector<std::int32_t>& layers) {
  std::map<std::string, Rows> weights;
  const auto factors = [](std::int64_t size) {
    std::vector<float> result(static_cast<std::size_t>(size), 1);
    result[kChannel] = 0;
    return result;
  };
  for (const Node& node : graph.nodes()) {
    if (node.op != Op::kLinear || std::ranges::find(layers, node.layer) == layers.end()) continue;
    const Rows rows = rows_of(node);
    if (node.name.ends_with("gate_proj") || node.name.ends_with("up_proj"))
      weights[node.name] = scale_rows(rows, factors(rows->rows()));
    if (node.name.ends_with("down_proj"))
      weights[node.name] = scale_columns(rows, factors(rows->columns()));
  }
  return with_weights(graph, weights);
}

// That channel gets a large value for whatever stands first, as attention sinks of real models have:
// from the cosines of positions, which are all 1 for the first alone. Nothing reads the channel.
Graph with_first_token_outliers(const Graph& graph, const std::vector<std::int32_t>& layers,
                                float strength) {
  const auto angles = std::ranges::find(graph.nodes(), Op::kRotaryAngles, &Node::op);
  // Cosines, then sines.
  const ValueId turns = angles->output();
  const std::int64_t width = graph.value(turns).width;
  Rewriter rewriter(graph);
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    rewriter.copy(id);
    const bool is_gate = node.name.ends_with("gate_proj");
    if (std::ranges::find(layers, node.layer) == layers.end() ||
        (!is_gate && !node.name.ends_with("up_proj")))
      continue;
    const std::int64_t inner = graph.value(node.output()).width;
    std::vector<float> rows(static_cast<std::size_t>(inner * width));
    const std::span<float> row = std::span(rows).subspan(kChannel * static_cast<std::size_t>(width),
                                                         static_cast<std::size_t>(width));
    // The mean of the fastest eight, at least 0.1 below 1 for other positions; the slowest is 1.
    for (std::size_t i = 0; i < 8; ++i) row[i] = (is_gate ? 200.0F : strength / 14) / 8;
    if (is_gate) row[row.size() / 2 - 1] = -200 * 0.93F;
    const ValueId spike =
        rewriter.add(Op::kLinear, "planted." + node.name, node.layer, {rewriter(turns)},
                     LinearAttributes{FloatWeight(Tensor::from_floats(rows, {inner, width})), {}});
    rewriter.replace(node.output(), rewriter.add(Op::kAdd, "planted." + node.name + ".sum",
                                                 node.layer, {rewriter(node.output()), spike}));
  }
  return std::move(rewriter).finish();
}

TEST(Prefix, IsFoundAndCuresStaticInt8WhereTokensHaveOutliers) {
  ThreadPool pool(2);
  const DemoGraph demo;
  CalibrationWindows windows = demo_windows(16, 64);
  const Graph plain = without_channel(demo.graph(), {1, 4});
  const Graph graph = with_first_token_outliers(plain, {1, 4}, 3000);
  const std::span<const std::int32_t> text = std::span(windows.ids).last(128);
  EXPECT_LT(divergence(run_graph(plain, text), run_graph(graph, text), 4096), 1e-9);

  EXPECT_TRUE(search_prefix(plain, windows, 4093, 8, pool).prefix.empty());
  const PrefixSearch found = search_prefix(graph, windows, 4093, 8, pool);
  EXPECT_EQ(found.prefix, std::vector<std::int32_t>{4093});
  ASSERT_EQ(found.layers.size(), 6U);
  EXPECT_EQ(found.layers[0].outliers, 0);
  EXPECT_NEAR(found.layers[1].outliers, 1, 1e-9) << "the first token of each window";
  EXPECT_NEAR(found.layers[4].max, 3000, 300);
  EXPECT_LT(found.layers[4].median, 20);

  const Recipe recipe{.rules = {{.match = "model.*",
                                 .prefill = Scheme{.weights = WeightType::kInt8,
                                                   .scales = DType::kF32,
                                                   .activations = ActivationType::kStatic}},
                                exclude("planted.*")}};
  const auto loss = [&](const std::vector<std::int32_t>& prefix) {
    windows.prefix = prefix;
    MemorySink sink;
    PassContext context{pool, silent()};
    const auto statistics = calibrate(graph, windows, pool, {});
    LinearQuantizer quantizer(recipe, statistics, sink);
    std::vector<std::int32_t> ids = prefix;
    ids.insert(ids.end(), text.begin(), text.end());
    const auto behind_prefix = [&](const Graph& g) {
      std::vector<float> logits = run_graph(g, ids);
      logits.erase(logits.begin(),
                   logits.begin() + static_cast<std::ptrdiff_t>(4096 * prefix.size()));
      return logits;
    };
    return divergence(behind_prefix(graph), behind_prefix(quantizer.prefill(graph, context)), 4096);
  };
  const double spoilt = loss({}), cured = loss(found.prefix);
  EXPECT_GT(spoilt, 0.1);
  EXPECT_LT(cured, 0.03);
}

TEST(Prefix, IsTakenUpFromAJournal) {
  const ScratchFolder folder;
  const DemoGraph demo;
  ThreadPool pool(2);
  CalibrationWindows windows = demo_windows(2, 32);
  windows.prefix = {4093, 17};
  const auto expected = calibrate(demo.graph(), windows, pool, {});
  // Ends after two blocks, and goes on from there.
  const auto open = [&] {
    return Journal({.folder = folder / "journal", .job = {}, .resume = true, .interval = {}},
                   silent());
  };
  class Interrupted : public std::exception {};
  {
    Journal journal = open();
    BlockJournal blocks(journal, "0-calibrate");
    EXPECT_THROW(calibrate(
                     demo.graph(), windows, pool,
                     [](int done, int) {
                       if (done == 2) throw Interrupted();
                     },
                     &blocks),
                 Interrupted);
  }
  Journal journal = open();
  BlockJournal blocks(journal, "0-calibrate");
  EXPECT_EQ(blocks.finished(), 1);
  const auto resumed = calibrate(demo.graph(), windows, pool, {}, &blocks);
  ASSERT_EQ(resumed.size(), expected.size());
  for (const auto& [name, statistics] : expected)
    EXPECT_EQ(resumed.at(name).channel_max, statistics.channel_max) << name;
}

}  // namespace
}  // namespace tandem::testing
