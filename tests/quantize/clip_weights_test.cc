// Clipping against a search by hand, and what later blocks are given.
#include "quantize/clip_weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "quantize/clip_search.h"
#include "quantize/demo_graph.h"
#include "quantize/fake_quantize.h"
#include "quantize/linear_weights.h"
#include "quantize/planted.h"
#include "quantize/run_graph.h"

namespace tandem::testing {
namespace {

constexpr ClipGrid kGrid{.steps = 20, .count = 20, .fine = 20};

// Values of no pattern in [-1, 1], every 37th larger.
std::vector<float> values(std::size_t count, float outlier) {
  std::vector<float> result;
  for (std::size_t i = 0; i < count; ++i)
    result.push_back(static_cast<float>(std::sin(static_cast<double>(i) * 12.9898 + 4) *
                                        (i % 37 == 0 ? outlier : 1)));
  return result;
}

// The error that a group's clipped weights make of its part of the output, or of themselves.
double error_of_bound(std::span<const float> group, float bound, const FakeQuantizer& quantizer,
                      const std::vector<float>& x, std::size_t columns, std::size_t first) {
  std::vector<float> made(group.begin(), group.end());
  for (float& w : made) w = std::clamp(w, -bound, bound);
  std::vector<std::uint8_t> codes(made.size());
  quantizer.quantize_group(made, codes);
  double sum = 0;
  for (std::size_t i = 0; x.empty() && i < made.size(); ++i)
    sum += std::pow(double{made[i]} - group[i], 2);
  for (std::size_t row = 0; row < x.size(); row += columns) {
    double y = 0;
    for (std::size_t i = 0; i < made.size(); ++i)
      y += (double{made[i]} - group[i]) * x[row + first + i];
    sum += y * y;
  }
  return sum;
}

struct Case {
  std::int64_t columns;
  std::int64_t group;
  bool has_inputs;
};

// The grid's best is never beaten by any of 100 bounds by more than its steps explain, and it is
// better than no clipping; groups in a row, a row that is one group, and one too large for the
// search by groups.
TEST(ClipSearch, FindsTheLeastErrorOfEveryGroup) {
  ThreadPool pool(2);
  for (const auto& [columns, group, has_inputs] :
       {Case{192, 32, true}, Case{192, 32, false}, Case{96, 0, true}, Case{640, 0, true},
        Case{640, 0, false}}) {
    const Scheme scheme{.weights = WeightType::kUint4, .group = group, .scales = DType::kF32};
    const FakeQuantizer quantizer(scheme, columns);
    const auto g = static_cast<std::size_t>(quantizer.group());
    const std::vector<float> w = values(static_cast<std::size_t>(3 * columns), 4);
    std::vector<float> x;
    if (has_inputs) x = values(static_cast<std::size_t>(40 * columns), 1);
    const Rows rows = stored_rows(Tensor::from_floats(w, {3, columns}));
    const std::vector<float> bounds = search_clip(*rows, scheme, x, pool, kGrid).to_floats();
    ASSERT_EQ(bounds.size(), w.size() / g);
    for (std::size_t i = 0; i < bounds.size(); ++i) {
      const auto weights = std::span(w).subspan(i * g, g);
      const auto error = [&](float bound) {
        return error_of_bound(weights, bound, quantizer, x, static_cast<std::size_t>(columns),
                              i * g % static_cast<std::size_t>(columns));
      };
      float largest = 0;
      for (const float weight : weights) largest = std::max(largest, std::abs(weight));
      double least = std::numeric_limits<double>::infinity();
      for (int part = 1; part <= 20; ++part)
        least = std::min(least, error(largest * static_cast<float>(part) / 20));
      EXPECT_LE(error(bounds[i]), least * (1 + 1e-3)) << columns << " " << group << " " << i;
      EXPECT_LE(bounds[i], largest);
    }
  }
}

Recipe recipe_of(std::int64_t group) {
  return {
      .rules = {{.match = "*", .decode = Scheme{.weights = WeightType::kUint4, .group = group}}}};
}

// Squared difference between the rounded weights of a graph and those of another.
double change(const Graph& clipped, const Graph& graph, const Recipe& recipe, ThreadPool& pool) {
  const Graph made = rounded(clipped, recipe, pool);
  double sum = 0;
  for (std::size_t i = 0; i < graph.nodes().size(); ++i) {
    const Node& node = graph.nodes()[i];
    if (node.op != Op::kLinear || node.layer < 0) continue;
    std::vector<float> was(
        static_cast<std::size_t>(rows_of(node)->rows() * rows_of(node)->columns()));
    std::vector<float> is(was.size());
    rows_of(node)->read(0, was);
    rows_of(made.nodes()[i])->read(0, is);
    for (std::size_t j = 0; j < was.size(); ++j) sum += std::pow(double{is[j]} - was[j], 2);
  }
  return sum;
}

TEST(ClipWeights, LosesLessThanTheWholeRange) {
  ThreadPool pool(2);
  const CalibrationWindows windows = demo_windows(4, 128);
  const std::span<const std::int32_t> ids = std::span(windows.ids).last(256);
  const DemoGraph demo;
  const std::vector<float> expected = run_graph(demo.graph(), ids);
  for (const std::int64_t group : {128, 0}) {
    const Recipe recipe = recipe_of(group);
    const auto loss = [&](const Graph& graph) {
      return divergence(expected, run_graph(rounded(graph, recipe, pool), ids), 4096);
    };
    const double nearest = loss(demo.graph());
    const Graph sequential = clip_outputs(demo.graph(), recipe, windows, pool, silent());
    EXPECT_LT(loss(sequential), nearest * 0.95) << group;
    // Without a text the weights themselves are what is kept.
    EXPECT_LT(
        change(clip_weights(demo.graph(), recipe, pool, silent()), demo.graph(), recipe, pool),
        change(demo.graph(), demo.graph(), recipe, pool) * 0.98)
        << group;
  }
}

TEST(ClipWeights, LeavesWhatStaysFloat) {
  ThreadPool pool(1);
  const DemoGraph demo;
  Recipe recipe = recipe_of(128);
  recipe.rules.push_back(exclude("*.mlp.*"));
  const CalibrationWindows windows = demo_windows(1, 32);
  for (const Graph& graph : {clip_weights(demo.graph(), recipe, pool, silent()),
                             clip_outputs(demo.graph(), recipe, windows, pool, silent())})
    for (const Node& node : graph.nodes())
      if (node.op == Op::kLinear && node.name.find(".mlp.") != std::string::npos) {
        EXPECT_NE(rows_of(node)->stored(), nullptr) << node.name;
      }
}

// A visitor that takes a block's weights away: the next block reads what came into this one.
class Emptied : public BlockVisitor {
 public:
  explicit Emptied(const Graph& graph) : graph_(graph) {}
  std::map<std::int32_t, std::vector<float>> first_rows;
  void batch(const BlockRunner& runner, std::int64_t first, std::int64_t) override {
    const auto norm = std::ranges::find_if(graph_.nodes(), [&](const Node& node) {
      return node.layer == runner.layer() && node.op == Op::kRmsNorm;
    });
    const ValueId hidden = norm->inputs[0];
    const float* row = runner.rows_of(hidden, first);
    if (first == 0) first_rows[runner.layer()].assign(row, row + graph_.value(hidden).width);
  }
  bool revises() const override { return true; }
  Graph revised(const Graph& block) const override {
    std::map<std::string, Rows> weights;
    for (const Node& node : block.nodes()) {
      if (node.op != Op::kLinear) continue;
      const Rows& rows = rows_of(node);
      const std::vector<float> zeros(static_cast<std::size_t>(rows->rows() * rows->columns()));
      weights[node.name] = stored_rows(Tensor::from_floats(zeros, {rows->rows(), rows->columns()}));
    }
    return with_weights(block, weights);
  }

 private:
  const Graph& graph_;
};

TEST(BlockRunner, GoesOnFromRevisedBlocks) {
  ThreadPool pool(2);
  const DemoGraph demo;
  const CalibrationWindows windows = demo_windows(2, 64);
  Emptied visitor(demo.graph());
  BlockRunner(demo.graph(), windows, {}, pool).run(visitor, {});
  ASSERT_EQ(visitor.first_rows.size(), 6U);
  for (const auto& [layer, row] : visitor.first_rows)
    EXPECT_EQ(row, visitor.first_rows.at(0)) << layer;
}

}  // namespace
}  // namespace tandem::testing
