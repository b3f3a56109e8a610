// Hot channels: which ones are chosen, and that static int8 loses next to nothing with them where
// outliers are planted.
#include "quantize/shadows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>

#include "devices/npu/npu_device.h"
#include "quantize/activation_recorder.h"
#include "quantize/demo_graph.h"
#include "quantize/journal.h"
#include "quantize/planted.h"
#include "quantize/prepare_graph.h"
#include "quantize/quantize_linears.h"
#include "quantize/run_graph.h"

namespace tandem::testing {
namespace {

constexpr Scheme kStatic{WeightType::kInt8, 0, DType::kF32, ActivationType::kStatic};
constexpr std::size_t kVocabulary = 4096;

Recipe static_int8(const ShadowSettings& shadow) {
  Recipe recipe{.rules = {{.match = "model.*", .prefill = kStatic}}};
  recipe.calibration.shadow = shadow;
  return recipe;
}

// ------------------------------------------------------------ one product

// Inputs in which two channels are far beyond the others, and a weight.
struct Product {
  static constexpr std::int64_t kRows = 9, kWidth = 48, kOutputs = 20;

  Product() {
    std::normal_distribution<float> normal;
    for (float& value : x) value = normal(random);
    for (std::int64_t row = 0; row < kRows; ++row)
      for (const std::int64_t channel : {7, 30})
        x[static_cast<std::size_t>(row * kWidth + channel)] *= 500;
    for (float& value : w) value = std::round(normal(random) * 32);
    // Exact codes, so that nothing but the input is rounded.
    for (std::int64_t row = 0; row < kOutputs; ++row)
      w[static_cast<std::size_t>(row * kWidth)] = 127;
    graph.set_outputs(
        {graph.add(Op::kLinear, "model.down", 0, {graph.add_input({.name = "x", .width = kWidth})},
                   LinearAttributes{FloatWeight(Tensor::from_floats(w, {kOutputs, kWidth})), {}})});
  }

  std::mt19937 random{5};
  std::vector<float> x = std::vector<float>(kRows * kWidth);
  std::vector<float> w = std::vector<float>(kOutputs * kWidth);
  Graph graph;
};

std::vector<float> run_product(const Graph& graph, const Product& product,
                               std::span<const DeviceThreads> devices) {
  NoPanelCache panels;
  const Executor executor(graph, {Phase::kPrefill, Product::kRows}, devices, panels, {});
  Arena arena = executor.make_arena();
  const void* const inputs[] = {product.x.data()};
  const std::int64_t rows[] = {Product::kRows};
  executor.run({inputs, rows, {}}, arena);
  const float* y = executor.output(arena, 0);
  return {y, y + Product::kRows * Product::kOutputs};
}

// What is clipped comes back to the last bit but float's, on one device and on two.
TEST(Shadow, LeavesNoErrorOfClipping) {
  const Product product;
  const Recipe recipe = static_int8({});
  std::map<std::string, InputStatistics> statistics;
  constexpr float kScale = 0.03125F;
  statistics["model.down"] = {.max = 2000, .shadow = {127 * kScale, {7, 30}}};
  MemorySink sink;
  LinearQuantizer quantizer(recipe, statistics, sink);
  ThreadPool pool(2);
  PassContext context{pool, silent()};
  const Graph graph = quantizer.prefill(product.graph, context);
  EXPECT_EQ(count_shadows(graph).modules, 1);
  EXPECT_EQ(count_shadows(graph).channels, 2);
  EXPECT_EQ(count_shadows(graph).bytes, 2 * 2 * Product::kOutputs);
  EXPECT_EQ(count_shadows(product.graph).modules, 0);

  const CpuDevice cpu(window_kernels());
  const NpuHostDevice npu(window_kernels());
  const DeviceThreads both[] = {{&npu, &pool}, {&cpu, &pool}}, one[] = {{&cpu, &pool}};
  const std::vector<float> got = run_product(graph, product, one);
  EXPECT_EQ(run_product(graph, product, both), got);
  for (std::int64_t t = 0; t < Product::kRows; ++t)
    for (std::int64_t n = 0; n < Product::kOutputs; ++n) {
      double expected = 0, largest = 0;
      for (std::int64_t k = 0; k < Product::kWidth; ++k) {
        const float value = product.x[static_cast<std::size_t>(t * Product::kWidth + k)];
        const double code = std::nearbyint(value / kScale);
        const bool is_hot = k == 7 || k == 30;
        const double kept = std::clamp(code, -128.0, 127.0) == code ? code * kScale
                            : is_hot                                ? double{value}
                                     : std::clamp(code, -128.0, 127.0) * kScale;
        const double term = kept * product.w[static_cast<std::size_t>(n * Product::kWidth + k)];
        expected += term;
        largest = std::max(largest, std::abs(term));
      }
      EXPECT_NEAR(got[static_cast<std::size_t>(t * Product::kOutputs + n)], expected,
                  1e-6 * largest);
    }

  // The integer product stays on the NPU, and only that.
  const std::vector<const Device*> devices = {&npu, &cpu};
  const Placement placement = place(graph, {Phase::kPrefill, 16}, devices);
  for (std::size_t i = 0; i < graph.nodes().size(); ++i) {
    const Op op = graph.nodes()[i].op;
    const bool is_npus = op == Op::kQuantize || op == Op::kLinear || op == Op::kDequantize;
    EXPECT_EQ(placement.devices[placement.nodes[i].device], is_npus ? "npu" : "cpu")
        << graph.nodes()[i].name;
  }
}

// ------------------------------------------------------------ what calibration sees

TEST(Shadow, OptionsHaveTheLeastErrorOfTheirBounds) {
  constexpr std::int64_t kRows = 400, kWidth = 64;
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> x(kRows * kWidth);
  for (float& value : x) value = normal(random);
  for (std::int64_t row = 0; row < kRows; ++row)
    for (const auto& [channel, factor] : {std::pair{9, 300.0F}, {20, 80.0F}, {21, 80.0F}})
      x[static_cast<std::size_t>(row * kWidth + channel)] *= factor;
  ThreadPool pool(3);
  ActivationRecorder recorder(kWidth, pool.threads(), true);
  recorder.record(x.data(), kRows / 2, pool);
  recorder.record(x.data() + kRows / 2 * kWidth, kRows / 2, pool);
  const InputStatistics seen = recorder.statistics();
  const auto is_hot = [&](std::int64_t channel, std::int64_t hot) {
    return std::ranges::count_if(seen.channel_max, [&](float max) {
             return max > seen.channel_max[static_cast<std::size_t>(channel)];
           }) < hot;
  };
  // By the definition, with the very roundings.
  const auto error_of = [&](std::int64_t hot, float bound) {
    double error = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double step = double{bound} / 127;
      const double code = std::nearbyint(x[i] / step);
      if (std::abs(code) > 127 && is_hot(static_cast<std::int64_t>(i) % kWidth, hot)) continue;
      const double off = x[i] - std::clamp(code, -127.0, 127.0) * step;
      error += off * off;
    }
    return error / static_cast<double>(x.size());
  };
  ASSERT_EQ(seen.shadow_options.size(), 5U) << "0, 1, 2, 4 and 8 of 64";
  for (const ShadowOption& option : seen.shadow_options) {
    const double error = error_of(option.hot, option.bound);
    EXPECT_NEAR(option.error, error, 0.15 * error) << option.hot;
    for (const float factor : {0.5F, 0.7F, 1.4F, 2.0F})
      EXPECT_GT(error_of(option.hot, option.bound * factor), 0.95 * error) << option.hot;
  }
  EXPECT_LT(seen.shadow_options[3].error, seen.shadow_options[0].error / 100);
  EXPECT_TRUE(ActivationRecorder(kWidth, 1).statistics().shadow_options.empty());
}

TEST(Shadow, OptionsAreTakenUpFromAJournal) {
  const ScratchFolder folder;
  const DemoGraph demo;
  ThreadPool pool(2);
  const CalibrationWindows windows = demo_windows(2, 32);
  const auto expected = calibrate(demo.graph(), windows, pool, {}, nullptr, true);
  const auto run = [&](const std::function<void(int, int)>& progress) {
    Journal journal({.folder = folder / "journal", .job = {}, .resume = true, .interval = {}},
                    silent());
    BlockJournal blocks(journal, "0-calibrate");
    return calibrate(demo.graph(), windows, pool, progress, &blocks, true);
  };
  class Interrupted : public std::exception {};
  EXPECT_THROW(run([](int done, int) {
                 if (done == 3) throw Interrupted();
               }),
               Interrupted);
  for (const auto& [name, statistics] : run({})) {
    const auto& options = expected.at(name).shadow_options;
    ASSERT_EQ(statistics.shadow_options.size(), options.size()) << name;
    for (std::size_t i = 0; i < options.size(); ++i) {
      EXPECT_EQ(statistics.shadow_options[i].hot, options[i].hot);
      EXPECT_EQ(statistics.shadow_options[i].bound, options[i].bound);
      EXPECT_EQ(statistics.shadow_options[i].error, options[i].error);
    }
  }
}

// ------------------------------------------------------------ which are chosen

TEST(Shadow, FollowsThePercentileBeyondAThreshold) {
  const DemoGraph demo;
  const Recipe recipe = static_int8({.threshold = 64});
  std::map<std::string, InputStatistics> statistics = {
      {"at", {.max = 64, .percentile = 1, .channel_max = {0.5F, 64, 1, 3}}},
      {"above", {.max = 65, .percentile = 1, .channel_max = {0.5F, 65, 1, 3}}},
      {"zeros", {.channel_max = {0, 0}}}};
  const CalibrationWindows windows;
  ThreadPool pool(1);
  choose_shadows({demo.graph(), demo.graph(), recipe, windows}, statistics, pool, silent());
  EXPECT_TRUE(statistics["at"].shadow.channels.empty());
  EXPECT_TRUE(statistics["zeros"].shadow.channels.empty());
  EXPECT_EQ(statistics["above"].shadow.channels, (std::vector<std::int32_t>{1, 3}));
  EXPECT_EQ(statistics["above"].shadow.bound, 1);
  for (const InputBound bound : {InputBound::kLeastError, InputBound::kMax})
    EXPECT_EQ(static_scale(statistics["above"], bound), 1.0F / 127);
}

// A text and a model with planted outliers, and what static int8 loses on others of its windows.
class PlantedShadow : public ::testing::Test {
 protected:
  struct Loss {
    double kl = 0;
    ShadowCount shadows;
  };
  Loss loss(const Graph& graph, const ShadowSettings& settings, std::vector<PassStep> passes = {}) {
    Recipe recipe = static_int8(settings);
    recipe.passes = std::move(passes);
    PassContext context{pool_, silent()};
    MemorySink sink;
    const PreparedGraph prepared =
        prepare_graph(graph, recipe, {.windows = &windows_, .sink = sink}, context);
    LinearQuantizer quantizer(recipe, prepared.statistics, sink);
    const Graph prefill = quantizer.prefill(prepared.graph, context);
    return {divergence(run_graph(graph, ids_), run_graph(prefill, ids_), kVocabulary),
            count_shadows(prefill)};
  }

  ThreadPool pool_{2};
  CalibrationWindows windows_ = demo_windows(8, 128);
  std::span<const std::int32_t> ids_ = std::span(windows_.ids).last(256);
  DemoGraph demo_;
};

TEST_F(PlantedShadow, OfABudgetCuresStaticInt8) {
  for (const float strength : {8.0F, 64.0F, 256.0F}) {
    const Graph graph = planted(demo_.graph(), Absorber::kLinear, strength);
    const Loss plain = loss(graph, {});
    const Loss cured = loss(graph, {.budget = 3});
    if (strength > 8) {
      EXPECT_GT(plain.kl, 0.1) << strength;
    }
    EXPECT_LT(cured.kl, 0.01) << strength;
    EXPECT_EQ(plain.shadows.modules, 0);
    EXPECT_GE(cured.shadows.modules, 6) << "every down_proj";
    // 6 blocks of 786,432 weights.
    EXPECT_LE(cured.shadows.bytes, 0.03 * 6 * 786432);
  }
}

TEST_F(PlantedShadow, GoesWithOtherCures) {
  const Graph graph = planted(demo_.graph(), Absorber::kValues, 64);
  EXPECT_GT(loss(graph, {}).kl, 0.1);
  EXPECT_LT(loss(graph, {.budget = 5}).kl, 0.01);
  const std::vector<PassStep> passes = {{"rotate", {{"r4", false}}}};
  EXPECT_LT(loss(planted(demo_.graph(), Absorber::kLinear, 64), {.budget = 3}, passes).kl, 0.01);
}

// The larger the budget, the more; none of it for what is not worth its bytes.
TEST_F(PlantedShadow, SpendsItsBudgetWhereItGains) {
  const Graph graph = planted(demo_.graph(), Absorber::kLinear, 64);
  const Loss little = loss(graph, {.budget = 0.1}), more = loss(graph, {.budget = 1});
  EXPECT_GT(little.shadows.modules, 0);
  EXPECT_LE(little.shadows.bytes, 0.001 * 6 * 786432);
  EXPECT_LT(more.kl, little.kl);
  EXPECT_LT(little.kl, loss(graph, {}).kl);
}

// A few values of a few channels, so that the percentile is that of the others.
TEST_F(PlantedShadow, OfAThresholdCuresRareOutliers) {
  const Graph graph = demo_.graph();
  const Loss plain = loss(graph, {}), cured = loss(graph, {.threshold = 8});
  EXPECT_GT(cured.shadows.modules, 0);
  EXPECT_LT(cured.kl, plain.kl);
}

TEST(Shadow, NeedsStaticInputs) {
  const DemoGraph demo;
  Recipe recipe = static_int8({.budget = 3});
  recipe.rules[0].prefill = Scheme{};
  EXPECT_EQ(error_of([&] { check_recipe(recipe, demo.graph()); }),
            "[recipe] shadow: is for int8 inputs with a static scale, which no module has: "
            "expected \"none\", or a rule with static activations");
}

}  // namespace
}  // namespace tandem::testing
