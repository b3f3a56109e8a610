// SmoothQuant's factors by hand, and static int8 with and without it where outliers are planted.
#include "quantize/smoothquant.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "quantize/demo_graph.h"
#include "quantize/journal.h"
#include "quantize/planted.h"
#include "quantize/quantize_linears.h"
#include "quantize/run_graph.h"

namespace tandem::testing {
namespace {

const RmsNormAttributes& norm_of(const Graph& graph, const std::string& name) {
  return std::ranges::find(graph.nodes(), name, &Node::name)->as<RmsNormAttributes>();
}

std::vector<float> values_of(const Graph& graph, const std::string& name) {
  const Weight& weight =
      std::ranges::find(graph.nodes(), name, &Node::name)->as<LinearAttributes>().weight;
  return dequantize_rows(weight, 0, output_channels(weight));
}

Recipe static_int8(const char* modules = "model.*") {
  return {.rules = {{.match = modules,
                     .prefill = Scheme{.weights = WeightType::kInt8,
                                       .scales = DType::kF32,
                                       .activations = ActivationType::kStatic}}}};
}

Graph smoothed_by(const SmoothQuantSettings& settings, const Graph& graph,
                  const CalibrationWindows& windows, ThreadPool& pool) {
  return smooth(graph, find_smoothing(graph, static_int8(), settings, windows, pool, silent()));
}

TEST(SmoothQuant, FactorsAreThoseOfThePaper) {
  ThreadPool pool(2);
  const DemoGraph demo;
  const CalibrationWindows windows = demo_windows(2, 64);
  const auto statistics = calibrate(demo.graph(), windows, pool, {});
  const Graph smoothed = smoothed_by({.alpha = 0.7}, demo.graph(), windows, pool);
  const std::string block = "model.layers.2.";
  const std::vector<float>& x = statistics.at(block + "mlp.gate_proj").channel_max;
  std::vector<float> w(256);
  for (const char* name : {"mlp.gate_proj", "mlp.up_proj"}) {
    const std::vector<float> values = values_of(demo.graph(), block + name);
    for (std::size_t i = 0; i < values.size(); ++i)
      w[i % 256] = std::max(w[i % 256], std::abs(values[i]));
  }
  const auto gain = [&](const Graph& graph) {
    return norm_of(graph, block + "post_attention_layernorm").weight.to_floats();
  };
  const std::vector<float> before = gain(demo.graph()), after = gain(smoothed);
  const std::vector<float> up = values_of(demo.graph(), block + "mlp.up_proj"),
                           scaled = values_of(smoothed, block + "mlp.up_proj");
  for (std::size_t c = 0; c < 256; ++c) {
    const double factor = std::pow(x[c], 0.7) / std::pow(w[c], 0.3);
    EXPECT_NEAR(after[c], before[c] / factor, std::abs(before[c] / factor) * 1e-5);
    EXPECT_NEAR(scaled[c], up[c] * factor, std::abs(up[c] * factor) * 1e-5);
  }
  // Elsewhere only on request.
  const std::string down = block + "mlp.down_proj";
  EXPECT_EQ(values_of(smoothed, down), values_of(demo.graph(), down));
  const Graph everywhere = smoothed_by({.everywhere = true}, demo.graph(), windows, pool);
  EXPECT_NE(values_of(everywhere, down), values_of(demo.graph(), down));
  const std::span<const std::int32_t> ids = std::span(windows.ids).first(64);
  const std::vector<float> expected = run_graph(demo.graph(), ids);
  EXPECT_LT(divergence(expected, run_graph(smoothed, ids), 4096), 1e-9);
  EXPECT_LT(divergence(expected, run_graph(everywhere, ids), 4096), 1e-9);
}

// A channel that is never used has no factor.
TEST(SmoothQuant, LeavesChannelsOfZeros) {
  ThreadPool pool(1);
  const DemoGraph plain;
  std::vector<float> gain =
      norm_of(plain.graph(), "model.layers.1.input_layernorm").weight.to_floats();
  gain[7] = 0;
  const DemoGraph demo(
      {{"model.layers.1.input_layernorm.weight", Tensor::from_floats(gain, {256})}});
  const Graph smoothed = smoothed_by({}, demo.graph(), demo_windows(1, 32), pool);
  const std::string query = "model.layers.1.self_attn.q_proj";
  const std::vector<float> before = values_of(demo.graph(), query),
                           after = values_of(smoothed, query);
  for (std::size_t row = 0; row < 256; ++row)
    EXPECT_EQ(after[row * 256 + 7], before[row * 256 + 7]);
}

TEST(SmoothQuant, CuresStaticInt8WhereOutliersArePlanted) {
  ThreadPool pool(2);
  const CalibrationWindows windows = demo_windows(8, 128);
  const std::span<const std::int32_t> ids = std::span(windows.ids).last(256);
  const DemoGraph demo;
  const std::vector<float> expected = run_graph(demo.graph(), ids);
  const Recipe recipe = static_int8();
  const auto loss = [&](const Graph& graph) {
    const auto statistics = calibrate(graph, windows, pool, {});
    MemorySink sink;
    LinearQuantizer quantizer(recipe, statistics, sink);
    PassContext context{pool, silent()};
    return divergence(expected, run_graph(quantizer.prefill(graph, context), ids), 4096);
  };
  const Graph graph = planted(demo.graph(), Absorber::kNorm, 50);
  const double plain = loss(graph);
  const double smoothed = loss(smoothed_by({}, graph, windows, pool));
  EXPECT_GT(plain, 0.1);
  EXPECT_LT(smoothed, 0.03);
  EXPECT_LT(loss(smoothed_by({.alpha = std::nullopt, .search_tokens = 128}, graph, windows, pool)),
            0.03);
  const Graph values = planted(demo.graph(), Absorber::kValues, 50);
  EXPECT_LT(loss(smoothed_by({.everywhere = true}, values, windows, pool)), loss(values) / 4);
}

// ------------------------------------------------------------ a searched alpha

// All rows of a value.
class RowsOf : public BlockVisitor {
 public:
  RowsOf(const Graph& graph, ValueId value) : value_(value), width_(graph.value(value).width) {}
  std::vector<float> rows;

  void batch(const BlockRunner& runner, std::int64_t first, std::int64_t count) override {
    if (const float* x = runner.rows_of(value_, first))
      rows.insert(rows.end(), x, x + count * width_);
  }

 private:
  ValueId value_;
  std::int64_t width_;
};

// By the definition, in double, of both roundings: the mean squared error of y = x · wᵀ, where one
// scale reaches the largest |x| and a scale for each row the largest |w|.
double naive_loss(const std::vector<float>& x, const std::vector<std::vector<float>>& weights,
                  const std::vector<float>& factors) {
  const std::size_t k = factors.size();
  const auto rounded = [](double value, double scale) {
    return std::clamp(std::nearbyint(value / scale), -128.0, 127.0) * scale;
  };
  double largest = 0;
  for (std::size_t i = 0; i < x.size(); ++i)
    largest = std::max(largest, std::abs(double{x[i]} / factors[i % k]));
  std::vector<double> xs;
  for (std::size_t i = 0; i < x.size(); ++i)
    xs.push_back(rounded(double{x[i]} / factors[i % k], largest / 127));
  double sum = 0, count = 0;
  for (const std::vector<float>& w : weights)
    for (std::size_t row = 0; row < w.size(); row += k) {
      double most = 0;
      for (std::size_t c = 0; c < k; ++c)
        most = std::max(most, std::abs(double{w[row + c]} * factors[c]));
      for (std::size_t at = 0; at < x.size(); at += k) {
        double off = 0;
        for (std::size_t c = 0; c < k; ++c)
          off += xs[at + c] * rounded(double{w[row + c]} * factors[c], most / 127) -
                 double{x[at + c]} * w[row + c];
        sum += off * off;
        ++count;
      }
    }
  return sum / count;
}

TEST(SmoothQuant, SearchesByTheErrorOfStaticInt8) {
  ThreadPool pool(2);
  const DemoGraph demo;
  const Graph graph = planted(demo.graph(), Absorber::kNorm, 50);
  const CalibrationWindows windows = demo_windows(4, 16);
  Recipe recipe = static_int8("model.layers.2.*");
  recipe.calibration.input_bound = InputBound::kMax;
  // The windows 0 and 2.
  const SmoothQuantSettings settings{.alpha = std::nullopt, .search_tokens = 32};
  const auto found = find_smoothing(graph, recipe, settings, windows, pool, silent());
  ASSERT_EQ(found.size(), 2U) << "the norms of a block";
  const Smoothing& smoothing = found[1];
  ASSERT_EQ(smoothing.losses.size(), std::size_t{kSmoothQuantAlphas});
  RowsOf seen(graph, smoothing.group.value);
  BlockRunner(graph, windows, {smoothing.group.value}, pool).run(seen, {});
  std::vector<float> x;
  for (const std::size_t window : {0U, 2U}) {
    const auto begin = seen.rows.begin() + static_cast<std::ptrdiff_t>(window * 16 * 256);
    x.insert(x.end(), begin, begin + std::ptrdiff_t{16 * 256});
  }
  std::vector<std::vector<float>> weights;
  for (const NodeId id : smoothing.group.linears)
    weights.push_back(values_of(graph, graph.node(id).name));
  for (const int i : {0, 10, 14, 20}) {
    const double alpha = i / 20.0;
    const auto fixed =
        find_smoothing(graph, recipe, {.alpha = alpha}, windows, pool, silent()).at(5);
    EXPECT_TRUE(fixed.losses.empty());
    const double expected = naive_loss(x, weights, fixed.factors);
    EXPECT_NEAR(smoothing.losses[static_cast<std::size_t>(i)], expected, expected * 0.01) << alpha;
    if (smoothing.alpha == alpha) {
      EXPECT_EQ(smoothing.factors, fixed.factors);
    }
  }
}

TEST(SmoothQuant, ASearchIsNeverWorseThanAHalf) {
  const DemoGraph demo;
  const Graph graph = planted(demo.graph(), Absorber::kNorm, 50);
  const CalibrationWindows windows = demo_windows(2, 16);
  const SmoothQuantSettings settings{.alpha = std::nullopt, .everywhere = true};
  const Recipe recipe = static_int8("re:layers\\.[34]\\.");
  ThreadPool one(1), three(3);
  const auto found = find_smoothing(graph, recipe, settings, windows, one, silent());
  ASSERT_EQ(found.size(), 8U) << "four of two blocks, the others stay float";
  int better = 0;
  for (const Smoothing& each : found) {
    const auto best = static_cast<std::size_t>(std::lround(each.alpha * 20));
    EXPECT_EQ(each.losses[best], std::ranges::min(each.losses));
    EXPECT_LE(each.losses[best], each.losses[10]);
    better += each.losses[best] < each.losses[10];
  }
  EXPECT_GT(better, 4);
  const auto again = find_smoothing(graph, recipe, settings, windows, three, silent());
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(again[i].losses, found[i].losses);
    EXPECT_EQ(again[i].factors, found[i].factors);
  }
}

// With a scale for each token, float inputs, and nothing rounded.
TEST(SmoothQuant, SearchesForWhatPrefillReads) {
  ThreadPool pool(2);
  const DemoGraph demo;
  const CalibrationWindows windows = demo_windows(1, 8);
  const SmoothQuantSettings settings{.alpha = std::nullopt};
  const auto search = [&](const Recipe& recipe) {
    return find_smoothing(demo.graph(), recipe, settings, windows, pool, silent());
  };
  Recipe recipe = static_int8("model.layers.5.*");
  const double fixed = search(recipe).front().losses[10];
  recipe.rules[0].prefill->activations = ActivationType::kDynamic;
  const double dynamic = search(recipe).front().losses[10];
  recipe.rules[0].prefill = Scheme{.weights = WeightType::kInt8, .scales = DType::kF32};
  const double plain = search(recipe).front().losses[10];
  EXPECT_LT(dynamic, fixed);
  EXPECT_LT(plain, dynamic);
  recipe.rules.push_back(exclude("*.gate_proj"));
  EXPECT_EQ(search(recipe).size(), 2U) << "up reads the same";
  recipe.rules.push_back(exclude("*.up_proj"));
  EXPECT_EQ(search(recipe).size(), 1U);
}

TEST(SmoothQuant, TakesUpWhatWasLearned) {
  const ScratchFolder folder;
  ThreadPool pool(2);
  const DemoGraph demo;
  const CalibrationWindows windows = demo_windows(1, 8);
  const SmoothQuantSettings settings{.alpha = std::nullopt};
  const auto search = [&](Observer& observer) {
    Journal journal({.folder = folder / "journal", .job = {}, .resume = true, .interval = {}},
                    observer);
    BlockJournal blocks(journal, "0-smoothquant");
    return find_smoothing(demo.graph(), static_int8(), settings, windows, pool, observer, &blocks);
  };
  const auto found = search(silent()), again = search(silent());
  EXPECT_TRUE(fs::exists(folder / "journal/0-smoothquant-5.safetensors"));
  ASSERT_EQ(again.size(), found.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(again[i].alpha, found[i].alpha);
    EXPECT_EQ(again[i].losses, found[i].losses);
    EXPECT_EQ(again[i].factors, found[i].factors);
  }
}

TEST(SmoothQuant, NamesAnInputThatIsNotFinite) {
  ThreadPool pool(1);
  std::vector<float> gain(256, 1.0F);
  gain[3] = std::numeric_limits<float>::infinity();
  const DemoGraph demo(
      {{"model.layers.0.input_layernorm.weight", Tensor::from_floats(gain, {256})}});
  EXPECT_NE(error_of([&] {
              smoothed_by({}, demo.graph(), demo_windows(1, 32), pool);
            }).find("[smoothquant] model.layers.0.self_attn.q_proj: its input is"),
            std::string::npos);
}

}  // namespace
}  // namespace tandem::testing
