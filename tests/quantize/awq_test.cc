// The AWQ search against AMD Quark's own, step by step, and what it keeps of a model.
#include "quantize/awq.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "checkpoint/safetensors.h"
#include "graph/rewriter.h"
#include "quantize/clip_search.h"
#include "quantize/demo_graph.h"
#include "quantize/fake_quantize.h"
#include "quantize/planted.h"
#include "quantize/quark_case.h"
#include "quantize/rtn.h"
#include "quantize/run_graph.h"

namespace tandem::testing {
namespace {

Recipe recipe_for(std::int64_t group, DType scales) {
  return {.rules = {
              {.match = "*",
               .decode = Scheme{.weights = WeightType::kUint4, .group = group, .scales = scales}}}};
}

// The name that the recorded searches give a group.
std::string group_name(const Graph& graph, const ScalingGroup& group) {
  const std::string first = graph.node(group.linears.front()).name;
  const char* name = first.ends_with("q_proj")      ? "qkv"
                     : first.ends_with("o_proj")    ? "o"
                     : first.ends_with("gate_proj") ? "gate_up"
                                                    : "down";
  return fmt::format("{}.{}", group.layer, name);
}

// A recorded search: of every group the losses and the factors, of some Linears the clip steps.
class RecordedSearch {
 public:
  explicit RecordedSearch(const char* name)
      : file_(SafetensorsFile::open(shared_data() / "quark" / name / "search.safetensors")) {}
  std::vector<float> losses(const std::string& group) const { return floats(group + ".losses"); }
  std::vector<float> factors(const std::string& group) const { return floats(group + ".scales"); }
  // Empty for a Linear without any.
  std::vector<int> clip_steps(const Node& node) const {
    const std::string prefix = fmt::format("model.layers.{}.", node.layer);
    const auto found = file_.tensors.find(
        fmt::format("{}.{}.clip_step", node.layer, node.name.substr(prefix.size())));
    if (found == file_.tensors.end()) return {};
    const auto steps = found->second.as<std::uint8_t>();
    return {steps.begin(), steps.end()};
  }

 private:
  std::vector<float> floats(const std::string& name) const {
    return file_.tensors.at(name).to_floats();
  }
  SafetensorsFile file_;
};

// The bound of each group of consecutive weights for its clip step.
std::vector<float> bounds_of(const std::vector<float>& weight, const std::vector<int>& steps,
                             DType dtype) {
  const std::size_t group = weight.size() / steps.size();
  std::vector<float> bounds;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    float largest = 0;
    for (std::size_t j = 0; j < group; ++j)
      largest = std::max(largest, std::abs(weight[i * group + j]));
    bounds.push_back(as_loaded(largest * static_cast<float>(1 - steps[i] / 20.0), dtype));
  }
  return bounds;
}

std::vector<float> values_of(const Node& node) {
  const Weight& weight = node.as<LinearAttributes>().weight;
  return dequantize_rows(weight, 0, output_channels(weight));
}

// The rows of some values, every `stride`th of all.
class Rows : public BlockVisitor {
 public:
  Rows(std::vector<ValueId> values, std::int64_t stride)
      : values_(std::move(values)), stride_(stride) {}
  std::map<ValueId, std::vector<float>> rows;
  void batch(const BlockRunner& runner, std::int64_t first, std::int64_t count) override {
    for (const ValueId value : values_) {
      const float* x = runner.rows_of(value, first);
      const std::int64_t width = runner.graph().value(value).width;
      for (std::int64_t row = 0; x != nullptr && row < count; ++row)
        if ((first + row) % stride_ == 0)
          rows[value].insert(rows[value].end(), x + row * width, x + (row + 1) * width);
    }
  }

 private:
  std::vector<ValueId> values_;
  std::int64_t stride_;
};

// A recorded search, and what it was given.
struct Search {
  RecordedSearch recorded;
  Recipe recipe;
  CalibrationWindows windows;
};
Search search_of(const char* name) {
  const auto group = QuarkCase(name).description.at("group_size").get<std::int64_t>();
  return {RecordedSearch(name), recipe_for(group, DType::kF32), quark_windows()};
}

class QuarkSearch : public ::testing::TestWithParam<const char*> {};

// Of 480 losses each. A factor that differs in its last bit moves ties between two codes, and with
// them a loss by up to 0.1 %.
TEST_P(QuarkSearch, FindsTheSameExponents) {
  TANDEM_REQUIRE_SHARED("quark/awq_g128_float32");
  const auto [recorded, recipe, windows] = search_of(GetParam());
  const DemoGraph demo;
  ThreadPool pool(2);
  const AwqSettings settings{.search_tokens = 0, .clip = false, .quark = true};
  const AwqResult found = search_awq(demo.graph(), recipe, settings, windows, pool, silent());
  ASSERT_EQ(found.scalings.size(), 24U);
  EXPECT_TRUE(found.bounds.empty());
  int beyond = 0;
  for (const AwqScaling& scaling : found.scalings) {
    const std::string name = group_name(demo.graph(), scaling.group);
    const std::vector<float> losses = recorded.losses(name);
    for (std::size_t i = 0; i < losses.size(); ++i) {
      EXPECT_NEAR(scaling.losses[i], losses[i], losses[i] * 2e-3) << name << " " << i;
      beyond += std::abs(scaling.losses[i] - losses[i]) > losses[i] * 1e-3;
    }
    EXPECT_EQ(scaling.best, std::ranges::min_element(losses) - losses.begin()) << name;
    const std::vector<float> factors = recorded.factors(name);
    ASSERT_EQ(scaling.factors.size(), factors.size()) << name;
    for (std::size_t i = 0; i < factors.size(); ++i)
      EXPECT_NEAR(scaling.factors[i], factors[i], factors[i] * 2e-5) << name << " " << i;
  }
  EXPECT_LE(beyond, 2);
}

// For the recorded factors: a bound is where two codes tie, so that the last bit of a factor
// decides which is taken.
TEST_P(QuarkSearch, FindsTheSameClipSteps) {
  TANDEM_REQUIRE_SHARED("quark/awq_g128_float32");
  const auto [recorded, recipe, windows] = search_of(GetParam());
  const DemoGraph demo;
  ThreadPool pool(2);
  const std::vector<ScalingGroup> groups = find_scaling_groups(demo.graph());
  std::vector<ValueId> inputs;
  std::vector<std::vector<float>> factors;
  for (const ScalingGroup& group : groups) {
    inputs.push_back(group.value);
    factors.push_back(recorded.factors(group_name(demo.graph(), group)));
  }
  Rows seen(inputs, windows.tokens() / 512);
  BlockRunner(demo.graph(), windows, inputs, pool).run(seen, {});
  const Graph scaled = rescale(demo.graph(), groups, factors);
  int linears = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    std::vector<float> x = seen.rows.at(groups[g].value);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] /= factors[g][i % factors[g].size()];
    for (const NodeId id : groups[g].linears) {
      const Node& node = scaled.node(id);
      const std::vector<int> steps = recorded.clip_steps(node);
      if (steps.empty()) continue;
      const Tensor bounds =
          search_clip(*std::get<FloatWeight>(node.as<LinearAttributes>().weight).rows,
                      resolve(recipe, node.name).decode, x, pool);
      const std::vector<float> expected = bounds_of(values_of(node), steps, DType::kF32);
      int differ = 0;
      for (std::size_t i = 0; i < expected.size(); ++i)
        differ += bounds.as<float>()[i] != expected[i];
      EXPECT_EQ(differ, 0) << node.name << " of " << steps.size();
      ++linears;
    }
  }
  EXPECT_EQ(linears, 10);
}

INSTANTIATE_TEST_SUITE_P(Cases, QuarkSearch,
                         ::testing::Values("awq_g128_float32", "awq_g32_float32"));

class QuarkAwq : public ::testing::TestWithParam<const char*> {};

// From the recorded factors and steps to Quark's codes, in every type.
TEST_P(QuarkAwq, HasTheSameScalesZeroPointsAndCodes) {
  TANDEM_REQUIRE_SHARED("quark/awq_g128_float32");
  const QuarkCase quark(GetParam());
  const RecordedSearch recorded(GetParam());
  const DType dtype = dtype_of_case(quark.description);
  const auto group_size = quark.description.at("group_size").get<std::int64_t>();
  const Recipe recipe = recipe_for(group_size, dtype);
  const AwqSettings settings{.quark = true};
  std::map<std::string, Tensor> loaded;
  for (const auto& [name, tensor] : quark.demo.tensors) {
    std::vector<float> values = tensor.to_floats();
    for (float& value : values) value = as_loaded(value, dtype);
    loaded[name] = Tensor::from_floats(values, tensor.shape());
  }
  const DemoGraph demo(loaded);
  AwqResult result;
  for (const ScalingGroup& group : find_scaling_groups(demo.graph()))
    result.scalings.push_back({.group = group,
                               .losses = {},
                               .best = 0,
                               .factors = recorded.factors(group_name(demo.graph(), group))});
  const Graph scaled = apply_awq(demo.graph(), recipe, settings, result);
  for (NodeId id = 0; id < static_cast<NodeId>(scaled.nodes().size()); ++id) {
    const Node& node = scaled.node(id);
    if (node.op != Op::kLinear || node.layer < 0) continue;
    const std::vector<int> steps = recorded.clip_steps(node);
    if (steps.empty()) continue;
    const auto columns = input_channels(node.as<LinearAttributes>().weight);
    result.bounds[id] = Tensor::from_floats(
        bounds_of(values_of(node), steps, dtype),
        {static_cast<std::int64_t>(steps.size()) * group_size / columns, columns / group_size});
  }
  const Graph clipped = apply_awq(demo.graph(), recipe, settings, result);
  ThreadPool pool(2);
  int compared = 0;
  for (const Node& node : clipped.nodes()) {
    if (node.op != Op::kLinear || node.layer < 0) continue;
    if (!quark.has_linear(node.name)) continue;
    // The blocks whose steps were recorded.
    if (recorded.clip_steps(node).empty() && !node.name.ends_with("q_proj") &&
        !node.name.ends_with("k_proj"))
      continue;
    const QuarkLinear expected = quark.linear(node.name);
    const GroupCodes made =
        quantize_group_codes(*std::get<FloatWeight>(node.as<LinearAttributes>().weight).rows,
                             {.group = group_size, .scales = dtype}, node.name, pool);
    EXPECT_EQ(made.scales.to_floats(), expected.scales) << node.name;
    std::vector<int> codes;
    for (const std::uint8_t byte : made.codes.as<std::uint8_t>())
      codes.insert(codes.end(), {byte & 15, byte >> 4});
    EXPECT_EQ(codes, expected.codes) << node.name;
    ++compared;
  }
  EXPECT_GE(compared, 4);
}

INSTANTIATE_TEST_SUITE_P(Cases, QuarkAwq,
                         ::testing::Values("awq_g128_float32", "awq_g32_float32",
                                           "awq_g128_bfloat16", "awq_g128_float16_awqpack"));

// ------------------------------------------------------------ what it is for

TEST(Awq, BeatsRoundToNearestWhereOutliersArePlanted) {
  ThreadPool pool(2);
  const CalibrationWindows windows = demo_windows(16, 128);
  const std::span<const std::int32_t> ids = std::span(windows.ids).last(256);
  const Recipe recipe = recipe_for(128, DType::kF16);
  const AwqSettings settings;
  const DemoGraph demo;
  const std::vector<float> expected = run_graph(demo.graph(), ids);
  for (const Absorber absorber : {Absorber::kNorm, Absorber::kLinear, Absorber::kValues}) {
    const Graph graph = planted(demo.graph(), absorber, 50);
    EXPECT_LT(divergence(expected, run_graph(graph, ids), 4096), 1e-9);
    const auto loss = [&](const Graph& g) {
      return divergence(expected, run_graph(rounded(g, recipe, pool), ids), 4096);
    };
    const AwqResult found = search_awq(graph, recipe, settings, windows, pool, silent());
    EXPECT_LT(loss(apply_awq(graph, recipe, settings, found)), loss(graph) * 0.6)
        << static_cast<int>(absorber);
    // Folding changes nothing but the last bits.
    const Graph folded = apply_awq(graph, recipe, settings, {found.scalings, {}});
    EXPECT_LT(divergence(expected, run_graph(folded, ids), 4096), 1e-9);
  }
}

// The loss of q, k and v on their own input is never above that of the exponent that the next
// block's input chooses.
TEST(Awq, JudgesReadersOnTheirOwnInput) {
  ThreadPool pool(2);
  const CalibrationWindows windows = demo_windows(4, 128);
  const DemoGraph demo;
  const Recipe recipe = recipe_for(128, DType::kF32);
  const auto search = [&](bool quark) {
    return search_awq(demo.graph(), recipe, {.search_tokens = 0, .clip = false, .quark = quark},
                      windows, pool, silent());
  };
  const AwqResult ours = search(false), quark = search(true);
  ASSERT_EQ(ours.scalings.size(), quark.scalings.size());
  int other = 0;
  for (std::size_t i = 0; i < ours.scalings.size(); ++i) {
    const AwqScaling& scaling = ours.scalings[i];
    const auto at = [&](int best) { return scaling.losses[static_cast<std::size_t>(best)]; };
    EXPECT_LE(at(scaling.best), at(quark.scalings[i].best));
    if (scaling.group.linears.size() != 3) {
      EXPECT_EQ(scaling.losses, quark.scalings[i].losses);
    }
    other += scaling.best != quark.scalings[i].best;
  }
  EXPECT_GT(other, 0);
}

TEST(Awq, DoesNotDependOnThreads) {
  const CalibrationWindows windows = demo_windows(2, 64);
  const DemoGraph demo;
  const Recipe recipe = recipe_for(128, DType::kF16);
  const AwqSettings settings;
  ThreadPool one(1), three(3);
  const AwqResult a = search_awq(demo.graph(), recipe, settings, windows, one, silent());
  const AwqResult b = search_awq(demo.graph(), recipe, settings, windows, three, silent());
  ASSERT_EQ(a.scalings.size(), b.scalings.size());
  for (std::size_t i = 0; i < a.scalings.size(); ++i) {
    EXPECT_EQ(a.scalings[i].losses, b.scalings[i].losses);
    EXPECT_EQ(a.scalings[i].factors, b.scalings[i].factors);
  }
  ASSERT_EQ(a.bounds.size(), 30U) << "five Linears of six blocks, not queries and keys";
  for (const auto& [id, bounds] : a.bounds)
    EXPECT_EQ(bounds.to_floats(), b.bounds.at(id).to_floats());
}

TEST(Awq, LeavesWhatStaysFloat) {
  ThreadPool pool(1);
  const CalibrationWindows windows = demo_windows(1, 32);
  const DemoGraph demo;
  Recipe recipe = recipe_for(128, DType::kF16);
  recipe.rules.push_back(exclude("*.self_attn.*"));
  const AwqResult found = search_awq(demo.graph(), recipe, {}, windows, pool, silent());
  EXPECT_EQ(found.scalings.size(), 12U) << "gate and up, and down, of six blocks";
  EXPECT_EQ(found.bounds.size(), 18U);
}

TEST(Awq, NamesAnInputThatIsNotFinite) {
  ThreadPool pool(1);
  const CalibrationWindows windows = demo_windows(1, 16);
  std::vector<float> gain(256, 1.0F);
  gain[3] = std::numeric_limits<float>::quiet_NaN();
  const DemoGraph demo(
      {{"model.layers.2.input_layernorm.weight", Tensor::from_floats(gain, {256})}});
  EXPECT_EQ(error_of([&] {
              search_awq(demo.graph(), recipe_for(128, DType::kF16), {}, windows, pool, silent());
            }),
            "[awq] model.layers.2.self_attn.q_proj: its input is not finite in channel 3: expected "
            "finite values");
}

}  // namespace
}  // namespace tandem::testing
