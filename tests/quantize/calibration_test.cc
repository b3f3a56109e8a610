// Calibration against PyTorch's activations of the demo model and against AMD Quark's static input
// scales.
#include "quantize/calibration.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "checkpoint/safetensors.h"
#include "quantize/activation_recorder.h"
#include "quantize/demo_graph.h"
#include "quantize/quark_case.h"
#include "quantize/run_graph.h"

namespace tandem::testing {
namespace {

// Relative to the largest value of an input: float32 sums in another order than PyTorch's.
constexpr float kFloat32 = 2e-5F;
std::vector<std::int32_t> ids_of(const Tensor& ids) {
  const auto values = ids.as<std::int32_t>();
  return {values.begin(), values.end()};
}

class Fixture {
 public:
  Fixture() : file_(SafetensorsFile::open(fixture("quantize/fixtures/calibration.safetensors"))) {}
  CalibrationWindows windows() const {
    const Tensor& ids = file_.tensors.at("ids");
    return {ids_of(ids), ids.dim(1)};
  }
  const std::map<std::string, Tensor>& tensors() const { return file_.tensors; }

 private:
  SafetensorsFile file_;
};

TEST(Calibration, AgreesWithPyTorch) {
  const Fixture torch;
  const DemoGraph demo;
  ThreadPool pool(2);
  std::vector<std::pair<int, int>> progress;
  const auto statistics = calibrate(demo.graph(), torch.windows(), pool, [&](int done, int total) {
    progress.emplace_back(done, total);
  });
  ASSERT_EQ(progress.size(), 6U);
  EXPECT_EQ(progress.front(), std::make_pair(1, 6));
  EXPECT_EQ(progress.back(), std::make_pair(6, 6));
  EXPECT_EQ(statistics.size(), 42U) << "seven Linears in six layers, not the head";

  int compared = 0;
  for (const auto& [key, tensor] : torch.tensors()) {
    if (!key.ends_with(".channel_max")) continue;
    const std::string name = key.substr(0, key.size() - std::string(".channel_max").size());
    ASSERT_TRUE(statistics.contains(name)) << name;
    const InputStatistics& ours = statistics.at(name);
    const auto channel_max = tensor.as<float>();
    ASSERT_EQ(ours.channel_max.size(), channel_max.size()) << name;
    const float max = *std::max_element(channel_max.begin(), channel_max.end());
    EXPECT_NEAR(ours.max, max, max * kFloat32) << name;
    for (std::size_t c = 0; c < channel_max.size(); ++c)
      EXPECT_NEAR(ours.channel_max[c], channel_max[c], max * kFloat32) << name << " channel " << c;
    const float percentile = torch.tensors().at(name + ".percentile").as<float>()[0];
    EXPECT_GE(ours.percentile, percentile * (1 - 1e-4F)) << name;
    EXPECT_LE(ours.percentile, percentile * 1.008F) << name;
    ++compared;
  }
  EXPECT_EQ(compared, 24);
  for (const char* const other : {"self_attn.k_proj", "self_attn.v_proj"})
    EXPECT_EQ(statistics.at(std::string("model.layers.4.") + other).channel_max,
              statistics.at("model.layers.4.self_attn.q_proj").channel_max);
  EXPECT_EQ(statistics.at("model.layers.4.mlp.up_proj").channel_max,
            statistics.at("model.layers.4.mlp.gate_proj").channel_max);
}

// Relative: float32 sums in another order.
constexpr float kQuark = 1e-4F;

TEST(Calibration, GivesQuarksInputScales) {
  TANDEM_REQUIRE_SHARED("quark/int8_float32");
  const fs::path folder = shared_data() / "quark";
  const Json description = read_json_file(folder / "int8_float32/case.json");
  const auto exported = SafetensorsFile::open(folder / "int8_float32/model.safetensors");
  const DemoGraph demo;
  ThreadPool pool(2);
  const CalibrationWindows windows = quark_windows();
  ASSERT_EQ(windows.ids.size(), 16U * 512U);
  const auto statistics = calibrate(demo.graph(), windows, pool, {});
  int compared = 0;
  for (const auto& [name, amax] : description.at("input_amax").items()) {
    const float expected = amax.get<float>();
    EXPECT_NEAR(statistics.at(name).max, expected, expected * kQuark) << name;
    const float scale = exported.tensors.at(name + ".input_scale").to_floats().at(0);
    EXPECT_NEAR(statistics.at(name).max / 127.5F, scale, scale * kQuark) << name;
    ++compared;
  }
  EXPECT_EQ(compared, 42);
}

TEST(Calibration, WindowsAreIndependentHoweverTheyAreBatched) {
  // 10 windows of 70 tokens: seven run together, then three.
  const Fixture torch;
  const auto some = torch.windows().ids;
  CalibrationWindows all{{}, 70};
  for (std::size_t i = 0; i < 700; ++i) all.ids.push_back(some[(i * 37) % some.size()]);
  const DemoGraph demo;
  ThreadPool pool(2), three(3);
  const auto together = calibrate(demo.graph(), all, pool, {});
  std::map<std::string, InputStatistics> joined;
  for (std::size_t w = 0; w < 10; ++w) {
    const std::span<const std::int32_t> ids(all.ids.data() + w * 70, 70);
    for (const auto& [name, part] : calibrate(demo.graph(), cut_windows(ids, 70, 1), three, {})) {
      auto& sum = joined[name].channel_max;
      sum.resize(part.channel_max.size());
      for (std::size_t c = 0; c < sum.size(); ++c) sum[c] = std::max(sum[c], part.channel_max[c]);
    }
  }
  for (const auto& [name, statistics] : together)
    EXPECT_EQ(statistics.channel_max, joined.at(name).channel_max) << name;
}

TEST(Calibration, DoesNotDependOnThreads) {
  const Fixture torch;
  const DemoGraph demo;
  ThreadPool one(1), three(3);
  const auto a = calibrate(demo.graph(), torch.windows(), one, {});
  const auto b = calibrate(demo.graph(), torch.windows(), three, {});
  for (const auto& [name, statistics] : a) {
    EXPECT_EQ(statistics.max, b.at(name).max) << name;
    EXPECT_EQ(statistics.percentile, b.at(name).percentile) << name;
    EXPECT_EQ(statistics.channel_max, b.at(name).channel_max) << name;
  }
}

TEST(Calibration, ActivationThatIsNotFiniteIsNamed) {
  std::vector<float> gain(256, 1.0F);
  gain[17] = std::numeric_limits<float>::infinity();
  const std::string norm = "model.layers.2.post_attention_layernorm.weight";
  const DemoGraph demo({{norm, Tensor::from_floats(gain, {256})}});
  ThreadPool pool(2);
  const std::string message =
      error_of([&] { calibrate(demo.graph(), Fixture().windows(), pool, {}); });
  EXPECT_TRUE(message.starts_with("[calibrate] model.layers.2.mlp.gate_proj: input ")) << message;
  EXPECT_NE(message.find("inf in channel 17 for token 0 of window 0"), std::string::npos)
      << message;
}

TEST(Calibration, RejectsIdsAndWindowsThatDoNotFit) {
  const DemoGraph demo;
  ThreadPool pool(1);
  for (const std::int32_t id : {-1, 4096, std::numeric_limits<std::int32_t>::max()})
    EXPECT_NE(error_of([&] {
                calibrate(demo.graph(), {{1, 2, 3, id}, 2}, pool, {});
              }).find("token 3 has id " + std::to_string(id) + ", expected 0 to 4095"),
              std::string::npos);
  EXPECT_NE(error_of([&] {
              calibrate(demo.graph(), {{1, 2, 3}, 2}, pool, {});
            }).find("3 tokens, expected whole windows of 2"),
            std::string::npos);
  error_of([&] { calibrate(demo.graph(), {{}, 2}, pool, {}); });
  error_of([&] { calibrate(demo.graph(), {{1, 2}, 0}, pool, {}); });
}

// Largest |x| of each channel of each Linear's input inside blocks, from runs of the whole graph
// over one window after the other.
std::map<std::string, std::vector<float>> channel_max_of(Graph graph,
                                                         const CalibrationWindows& windows) {
  std::vector<ValueId> inputs;
  for (const Node& node : graph.nodes())
    if (node.op == Op::kLinear && node.layer >= 0 &&
        std::ranges::find(inputs, node.inputs[0]) == inputs.end())
      inputs.push_back(node.inputs[0]);
  graph.set_outputs(inputs);
  std::vector<std::vector<float>> largest;
  for (const ValueId input : inputs)
    largest.emplace_back(static_cast<std::size_t>(graph.value(input).width));
  const auto window = static_cast<std::size_t>(windows.window);
  for (std::size_t first = 0; first < windows.ids.size(); first += window) {
    const auto rows = run_outputs(graph, std::span(windows.ids).subspan(first, window));
    for (std::size_t i = 0; i < rows.size(); ++i)
      for (std::size_t at = 0; at < rows[i].size(); ++at) {
        float& channel = largest[i][at % largest[i].size()];
        channel = std::max(channel, std::fabs(rows[i][at]));
      }
  }
  std::map<std::string, std::vector<float>> by_name;
  for (const Node& node : graph.nodes())
    if (const auto found = std::ranges::find(inputs, node.inputs[0]);
        node.op == Op::kLinear && node.layer >= 0)
      by_name[node.name] = largest[static_cast<std::size_t>(found - inputs.begin())];
  return by_name;
}

void expect_like_whole_graph(const Graph& graph, const CalibrationWindows& windows) {
  ThreadPool pool(2);
  const auto statistics = calibrate(graph, windows, pool, {});
  const auto expected = channel_max_of(graph, windows);
  ASSERT_EQ(statistics.size(), expected.size());
  for (const auto& [name, channels] : expected) {
    EXPECT_EQ(statistics.at(name).channel_max, channels) << name;
    EXPECT_EQ(statistics.at(name).max, *std::ranges::max_element(channels)) << name;
  }
}

// A window of one token, windows of which several share a run, and one that is longer than a run.
TEST(Calibration, BlockByBlockIsLikeTheWholeGraph) {
  const DemoGraph demo;
  const auto some = Fixture().windows().ids;
  const auto windows = [&](std::int64_t window, std::size_t count) {
    CalibrationWindows made{{}, window};
    for (std::size_t i = 0; i < count * static_cast<std::size_t>(window); ++i)
      made.ids.push_back(some[(i * 31 + i / 7) % some.size()]);
    return made;
  };
  expect_like_whole_graph(demo.graph(), windows(1, 1));
  expect_like_whole_graph(demo.graph(), windows(3, 5));
  expect_like_whole_graph(demo.graph(), windows(600, 2));
}

// Values that a later block than the next reads, and one that all of them read.
TEST(Calibration, KeepsWhatLaterBlocksRead) {
  Graph graph;
  const ValueId ids = graph.add_input({.name = "ids", .dtype = DType::kI32, .width = 1});
  const ValueId selected = graph.add_input(
      {.name = "selected", .dtype = DType::kI32, .rows = graph.row_space("selected"), .width = 1});
  const auto matrix = [](std::int64_t n, std::int64_t k, float start) {
    std::vector<float> values(static_cast<std::size_t>(n * k));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = std::sin(start + static_cast<float>(i)) * 0.4F;
    return Tensor::from_floats(values, {n, k});
  };
  const ValueId first =
      graph.add(Op::kEmbedding, "embed", -1, {ids}, EmbeddingAttributes{matrix(20, 16, 0), 1});
  ValueId x = first, of_first_block = -1;
  for (std::int32_t layer = 0; layer < 4; ++layer) {
    const std::string name = "layers." + std::to_string(layer);
    x = graph.add(Op::kLinear, name + ".a", layer, {x},
                  LinearAttributes{FloatWeight(matrix(16, 16, static_cast<float>(layer))), {}});
    x = graph.add(Op::kAdd, name + ".skip", layer, {x, first});
    if (layer == 0) of_first_block = x;
    if (layer == 3) x = graph.add(Op::kMul, name + ".mul", layer, {x, of_first_block});
    x = graph.add(
        Op::kLinear, name + ".b", layer, {x},
        LinearAttributes{FloatWeight(matrix(16, 16, 50.0F + static_cast<float>(layer))), {}});
  }
  x = graph.add(Op::kSelectRows, "select", -1, {x, selected});
  graph.set_outputs({graph.add(Op::kLinear, "head", -1, {x},
                               LinearAttributes{FloatWeight(matrix(20, 16, 7)), {}})});
  CalibrationWindows windows{{}, 10};
  // Three runs, the last of them short.
  for (int i = 0; i < 1100; ++i) windows.ids.push_back(i * i % 20);
  expect_like_whole_graph(graph, windows);
}

TEST(Calibration, NotANumberIsNamed) {
  std::vector<float> gain(256, 1.0F);
  gain[255] = std::numeric_limits<float>::quiet_NaN();
  const DemoGraph demo(
      {{"model.layers.5.input_layernorm.weight", Tensor::from_floats(gain, {256})}});
  ThreadPool pool(2);
  const std::string message =
      error_of([&] { calibrate(demo.graph(), Fixture().windows(), pool, {}); });
  EXPECT_TRUE(message.starts_with("[calibrate] model.layers.5.self_attn.q_proj: input "))
      << message;
  EXPECT_NE(message.find("nan in channel 255 for token 0 of window 0"), std::string::npos)
      << message;
}

TEST(CutWindows, TakesTheFirstOnes) {
  const std::vector<std::int32_t> ids = {1, 2, 3, 4, 5, 6, 7, 8};
  EXPECT_EQ(cut_windows(ids, 3, 1).ids, (std::vector<std::int32_t>{1, 2, 3}));
  EXPECT_EQ(cut_windows(ids, 3, 128).ids, (std::vector<std::int32_t>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(cut_windows(ids, 3, 128).window, 3);
  EXPECT_EQ(error_of([&] { cut_windows(ids, 9, 1); }),
            "[calibrate] the text has 8 tokens, expected at least one window of 9");
  error_of([&] { cut_windows(ids, 0, 1); });
  error_of([&] { cut_windows(ids, 4, 0); });
  error_of([&] { cut_windows({}, 4, 1); });
}

TEST(ActivationRecorder, PercentileIsWithinABinOfTheTruth) {
  ThreadPool pool(3);
  ActivationRecorder recorder(100, pool.threads());
  EXPECT_EQ(recorder.statistics().max, 0.0F);
  EXPECT_EQ(recorder.statistics().percentile, 0.0F);
  std::vector<float> values;
  for (int i = 1; i <= 20000; ++i)
    values.push_back((i % 2 == 0 ? -1.0F : 1.0F) * std::exp(static_cast<float>(i % 9973) * 0.004F));
  EXPECT_EQ(recorder.record(values.data(), 150, pool).row, -1);
  EXPECT_EQ(recorder.record(values.data() + 15000, 50, pool).row, -1);
  std::vector<float> magnitudes;
  for (const float v : values) magnitudes.push_back(std::fabs(v));
  std::sort(magnitudes.begin(), magnitudes.end());
  const InputStatistics statistics = recorder.statistics();
  EXPECT_EQ(statistics.max, magnitudes.back());
  EXPECT_GE(statistics.percentile, magnitudes[20000 - 20 - 1]);
  EXPECT_LE(statistics.percentile, magnitudes[20000 - 20 - 1] * 1.0079F);
}

TEST(ActivationRecorder, ZerosSubnormalsAndTheLargestFloat) {
  ThreadPool pool(1);
  ActivationRecorder zeros(4, 1), ends(1, 1);
  const std::vector<float> zero = {0.0F, -0.0F, 0.0F, 0.0F};
  zeros.record(zero.data(), 1, pool);
  EXPECT_EQ(zeros.statistics().percentile, 0.0F);
  const std::vector<float> end = {std::numeric_limits<float>::denorm_min(),
                                  -std::numeric_limits<float>::max()};
  EXPECT_EQ(ends.record(end.data(), 2, pool).row, -1);
  EXPECT_EQ(ends.statistics().percentile, std::numeric_limits<float>::max());
}

TEST(ActivationRecorder, FindsTheFirstBadValue) {
  ThreadPool pool(2);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    ActivationRecorder recorder(8, pool.threads());
    std::vector<float> values(80, 1.0F);
    values[43] = values[79] = bad;
    const BadActivation found = recorder.record(values.data(), 10, pool);
    EXPECT_EQ(found.row, 5);
    EXPECT_EQ(found.channel, 3);
  }
}

}  // namespace
}  // namespace tandem::testing
