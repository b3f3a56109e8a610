// SmoothQuant's factors by hand, and static int8 with and without it where outliers are planted.
#include "quantize/smoothquant.h"

#include <gtest/gtest.h>

#include "quantize/demo_graph.h"
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

TEST(SmoothQuant, FactorsAreThoseOfThePaper) {
  ThreadPool pool(2);
  const DemoGraph demo;
  const CalibrationWindows windows = demo_windows(2, 64);
  const auto statistics = calibrate(demo.graph(), windows, pool, {});
  const Graph smoothed = smooth(demo.graph(), {.alpha = 0.7}, windows, pool, silent());
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
  const Graph everywhere = smooth(demo.graph(), {.everywhere = true}, windows, pool, silent());
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
  const Graph smoothed = smooth(demo.graph(), {}, demo_windows(1, 32), pool, silent());
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
  const Recipe recipe = {.rules = {{.match = "model.*",
                                    .prefill = Scheme{.weights = WeightType::kInt8,
                                                      .scales = DType::kF32,
                                                      .activations = ActivationType::kStatic}}}};
  const auto loss = [&](const Graph& graph) {
    const auto statistics = calibrate(graph, windows, pool, {});
    MemorySink sink;
    LinearQuantizer quantizer(recipe, statistics, sink);
    PassContext context{pool, silent()};
    return divergence(expected, run_graph(quantizer.prefill(graph, context), ids), 4096);
  };
  const Graph graph = planted(demo.graph(), Absorber::kNorm, 50);
  const double plain = loss(graph);
  const double smoothed = loss(smooth(graph, {}, windows, pool, silent()));
  EXPECT_GT(plain, 0.1);
  EXPECT_LT(smoothed, 0.03);
  const Graph values = planted(demo.graph(), Absorber::kValues, 50);
  EXPECT_LT(loss(smooth(values, {.everywhere = true}, windows, pool, silent())), loss(values) / 4);
}

}  // namespace
}  // namespace tandem::testing
