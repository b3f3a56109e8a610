// Static int16 activations: their scale, and the outliers that int8 loses.
#include <gtest/gtest.h>

#include "graph/ops.h"
#include "quantize/calibration.h"
#include "quantize/demo_graph.h"
#include "quantize/planted.h"
#include "quantize/quantize_linears.h"
#include "quantize/run_graph.h"

namespace tandem::testing {
namespace {

TEST(Static16, ReachesTheLargestValue) {
  const InputStatistics input{.max = 4, .percentile = 3, .least_error = 3.5F};
  for (const InputBound bound :
       {InputBound::kLeastError, InputBound::kMax, InputBound::kPercentile})
    EXPECT_EQ(static_scale(input, bound, ActivationType::kStatic16), 4.0F / 32639);
  EXPECT_GT(static_scale({}, InputBound::kMax, ActivationType::kStatic16), 0);
}

// The KL divergence of W8A8 from the float model, with another scheme of the modules that match.
double loss(const Graph& graph, const std::string& match, ActivationType activations) {
  ThreadPool pool(2);
  const CalibrationWindows windows = demo_windows(8, 128);
  const auto statistics = calibrate(graph, windows, pool, [](int, int) {});
  const Scheme int8{WeightType::kInt8, 0, DType::kF32, ActivationType::kStatic};
  Scheme other = int8;
  other.activations = activations;
  Recipe recipe;
  recipe.rules = {{.match = "model.*", .decode = int8, .prefill_as_decode = true},
                  {.match = match, .decode = other, .prefill_as_decode = true}};
  MemorySink sink;
  PassContext context{pool, silent()};
  const Graph quantized = LinearQuantizer(recipe, statistics, sink).decode(graph, context);
  const auto ids = std::span(windows.ids).first(128);
  return divergence(run_graph(graph, ids), run_graph(quantized, ids), 4096);
}

TEST(Static16, CuresOutliersOfItsInputAlone) {
  const DemoGraph demo;
  const Graph spoiled = planted(demo.graph(), Absorber::kLinear, 200);
  const double without = loss(spoiled, "*.down_proj", ActivationType::kStatic);
  const double with = loss(spoiled, "*.down_proj", ActivationType::kStatic16);
  EXPECT_GT(without, 0.5);
  EXPECT_LT(with, 0.02);
}

}  // namespace
}  // namespace tandem::testing
