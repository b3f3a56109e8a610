// Both phases' weights, in every form that a recipe can ask for: in memory, and through a package.
#include "quantize/quantize_linears.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "checkpoint/safetensors.h"
#include "graph/rewriter.h"
#include "models/model.h"
#include "package/write_package.h"
#include "quantize/rtn.h"
#include "quantize/run_graph.h"
#include "quantize/tiny_checkpoint.h"
#include "quantize/weight_sink.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::run_graph;
using testing::ScratchFolder;

Rule rule(const std::string& match, const Scheme& decode, const Scheme& prefill) {
  return {.match = match, .decode = decode, .prefill = prefill};
}

constexpr Scheme kDynamic{WeightType::kInt8, 0, DType::kF32, ActivationType::kDynamic};
constexpr Scheme kStatic{WeightType::kInt8, 0, DType::kF32, ActivationType::kStatic};

class QuantizedLinears : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::write_tiny_checkpoint(folder_ / "c");
    checkpoint_.emplace(Checkpoint::open(folder_ / "c"));
    graph_ = build_graph(checkpoint_->config_object(), CheckpointWeights(*checkpoint_));
    info_ = read_model_info(checkpoint_->config_object());
    // As if calibrated.
    for (const Node& node : graph_.nodes())
      if (node.op == Op::kLinear && node.layer >= 0)
        statistics_[node.name] = {.max = 4, .percentile = 3, .least_error = 3.5F};
  }

  struct Phases {
    Graph decode;
    Graph prefill;
  };
  Phases quantize(const Recipe& recipe, WeightSink& sink) {
    LinearQuantizer quantizer(recipe, statistics_, sink);
    Phases made{quantizer.decode(graph_, context_), quantizer.prefill(graph_, context_)};
    verify_decoder(made.decode);
    verify_decoder(made.prefill);
    return made;
  }
  Phases quantize(const Recipe& recipe) {
    MemorySink sink;
    return quantize(recipe, sink);
  }

  static const Weight& weight_of(const Graph& graph, const std::string& module) {
    const auto found = std::ranges::find_if(graph.nodes(), [&](const Node& node) {
      return node.op == Op::kLinear && node.name == module;
    });
    return found->as<LinearAttributes>().weight;
  }

  ScratchFolder folder_;
  ThreadPool pool_{2};
  PassContext context_{pool_, silent()};
  std::optional<Checkpoint> checkpoint_;
  ModelInfo info_;
  Graph graph_;
  std::map<std::string, InputStatistics> statistics_;
  const std::string down_ = "model.layers.1.mlp.down_proj";
};

struct Form {
  Scheme scheme;
  const char* description;
  DType scales;
};

TEST_F(QuantizedLinears, HaveEveryFormThatARecipeNames) {
  const Form forms[] = {
      {{WeightType::kFloat}, "f32 [64, 128]", DType::kF32},
      {{WeightType::kUint4, 32}, "int4 g32 [64, 128]", DType::kF16},
      {{WeightType::kUint4, 0, DType::kBF16}, "int4 g128 [64, 128]", DType::kBF16},
      {{WeightType::kInt4, 64}, "int4 g64 symmetric [64, 128]", DType::kF16},
      {{WeightType::kInt4, 0, DType::kF32}, "int4 g128 symmetric [64, 128]", DType::kF32},
      {{WeightType::kUint8, 16}, "int8 g16 [64, 128]", DType::kF16},
      {{WeightType::kInt8, 32, DType::kBF16}, "int8 g32 symmetric [64, 128]", DType::kBF16},
      {{WeightType::kInt8, 0}, "int8 g128 symmetric [64, 128]", DType::kF16},
      {kDynamic, "int8 [64, 128]", DType::kF32},
      {kStatic, "int8 [64, 128]", DType::kF32},
      {{WeightType::kInt4, 16, DType::kF32, ActivationType::kDynamic},
       "int4 block 16 [64, 128]",
       DType::kF32},
      {{WeightType::kInt4, 32, DType::kF32, ActivationType::kStatic},
       "int4 block 32 [64, 128]",
       DType::kF32},
      {{WeightType::kInt8, 0, DType::kF32, ActivationType::kStatic16},
       "int8 [64, 128]",
       DType::kF32},
  };
  const std::vector<std::int32_t> ids = {5, 900, 17, 3000, 42, 7, 7, 1};
  for (const Form& form : forms) {
    Recipe recipe;
    recipe.rules = {rule("*.down_proj", form.scheme, form.scheme)};
    const Phases made = quantize(recipe);
    const Weight& weight = weight_of(made.decode, down_);
    EXPECT_EQ(describe(weight), form.description);
    if (const auto* groups = std::get_if<GroupCodes>(&weight)) {
      EXPECT_EQ(groups->scales.dtype(), form.scales) << form.description;
    }
    EXPECT_EQ(dump(made.prefill), dump(made.decode));

    // Through a package and back.
    const std::vector<float> expected = run_graph(made.decode, ids);
    const fs::path package = folder_ / "p";
    fs::remove_all(package);
    fs::create_directories(package);
    write_package(package,
                  {info_, Json::object(), made.prefill, made.decode, OrderedJson{{"chunk", 32}}},
                  pool_, silent());
    const Graph read = Package::open(package, pool_).graph(Phase::kDecode);
    EXPECT_EQ(dump(read), dump(made.decode));
    EXPECT_EQ(dequantize_rows(weight_of(read, down_), 0, 64), dequantize_rows(weight, 0, 64));
    EXPECT_EQ(run_graph(read, ids), expected) << form.description;
  }
}

TEST_F(QuantizedLinears, AreThoseOfRoundToNearest) {
  Recipe recipe;
  recipe.rules = {rule("*.down_proj", {WeightType::kInt4, 32, DType::kBF16}, kDynamic)};
  const Phases made = quantize(recipe);
  const auto& real = std::get<FloatWeight>(weight_of(graph_, down_));
  const GroupCodes expected = quantize_group_codes(
      *real.rows, {.bits = 4, .is_signed = true, .group = 32, .scales = DType::kBF16}, down_,
      pool_);
  const auto& groups = std::get<GroupCodes>(weight_of(made.decode, down_));
  EXPECT_TRUE(std::ranges::equal(groups.codes.bytes(), expected.codes.bytes()));
  EXPECT_TRUE(std::ranges::equal(groups.scales.bytes(), expected.scales.bytes()));
  const ChannelCodes rows = quantize_channel_codes(*real.rows, down_, pool_);
  const auto& channels = std::get<ChannelCodes>(weight_of(made.prefill, down_));
  EXPECT_TRUE(std::ranges::equal(channels.codes.bytes(), rows.codes.bytes()));
  EXPECT_TRUE(std::ranges::equal(channels.scales.bytes(), rows.scales.bytes()));
  // What no rule names is as it was.
  const auto& up = std::get<FloatWeight>(weight_of(made.decode, "model.layers.0.mlp.up_proj"));
  EXPECT_EQ(up.rows, std::get<FloatWeight>(weight_of(graph_, "model.layers.0.mlp.up_proj")).rows);
}

// Of one value at one scale there is one matrix of codes, whoever reads it; the bias is added behind
// the sums.
TEST_F(QuantizedLinears, ShareTheCodesOfTheirInput) {
  const auto count = [](const Graph& graph, Op op) {
    return std::ranges::count(graph.nodes(), op, &Node::op);
  };
  for (const Scheme& scheme : {kStatic, kDynamic}) {
    Recipe recipe;
    recipe.rules = {rule("*.layers.*", {}, scheme)};
    const Graph prefill = quantize(recipe).prefill;
    const Op op = scheme == kStatic ? Op::kQuantize : Op::kDynamicQuantize;
    EXPECT_EQ(count(prefill, op), 2 * 4) << "q, k, v; o; gate, up; down";
    EXPECT_EQ(count(prefill, Op::kDequantize), 2 * 7);
    for (const Node& node : prefill.nodes()) {
      if (node.op == Op::kQuantize) {
        EXPECT_EQ(node.as<QuantizeAttributes>().scale, 3.5F / 127.0F);
      }
      if (node.op == Op::kDequantize) {
        EXPECT_EQ(node.inputs.size(), scheme == kStatic ? 1u : 2u) << node.name;
        EXPECT_EQ(node.as<DequantizeAttributes>().bias.empty(),
                  node.name.find("q_proj") == std::string::npos &&
                      node.name.find("k_proj") == std::string::npos &&
                      node.name.find("v_proj") == std::string::npos)
            << node.name;
      }
    }
  }
  // Another scale for one of those that read a value: codes of its own.
  statistics_["model.layers.0.self_attn.k_proj"].least_error = 1;
  Recipe recipe;
  recipe.rules = {rule("*.layers.*", {}, kStatic)};
  EXPECT_EQ(count(quantize(recipe).prefill, Op::kQuantize), 2 * 4 + 1);
}

TEST_F(QuantizedLinears, StaticScaleFollowsTheRecipe) {
  for (const auto& [bound, reach] :
       {std::pair(InputBound::kMax, 4.0F), std::pair(InputBound::kPercentile, 3.0F),
        std::pair(InputBound::kLeastError, 3.5F)}) {
    Recipe recipe;
    recipe.calibration.input_bound = bound;
    recipe.rules = {rule(down_, {}, kStatic)};
    const Graph prefill = quantize(recipe).prefill;
    const auto node = std::ranges::find(prefill.nodes(), Op::kQuantize, &Node::op);
    EXPECT_EQ(node->as<QuantizeAttributes>().scale, reach / 127.0F);
  }
  // An input that is all zeros has a scale all the same.
  statistics_[down_] = {};
  Recipe recipe;
  recipe.rules = {rule(down_, {}, kStatic)};
  const Graph prefill = quantize(recipe).prefill;
  EXPECT_GT(
      std::ranges::find(prefill.nodes(), Op::kQuantize, &Node::op)->as<QuantizeAttributes>().scale,
      0);
}

TEST_F(QuantizedLinears, PhasesThatWantTheSameWeightShareIt) {
  const auto data = [&](const Graph& graph, const std::string& module) {
    const Weight& weight = weight_of(graph, module);
    if (const auto* groups = std::get_if<GroupCodes>(&weight)) return groups->codes.bytes().data();
    return std::get<ChannelCodes>(weight).codes.bytes().data();
  };
  Recipe recipe;
  recipe.rules = {rule("*.up_proj", {WeightType::kInt4, 32}, {WeightType::kInt4, 32}),
                  rule("*.gate_proj", {WeightType::kInt4, 32}, {WeightType::kInt4, 64}),
                  // How the input is quantized is no matter of the weight.
                  rule("*.down_proj", kDynamic, kStatic)};
  const Phases made = quantize(recipe);
  const std::string mlp = "model.layers.0.mlp.";
  EXPECT_EQ(data(made.decode, mlp + "up_proj"), data(made.prefill, mlp + "up_proj"));
  EXPECT_NE(data(made.decode, mlp + "gate_proj"), data(made.prefill, mlp + "gate_proj"));
  EXPECT_EQ(data(made.decode, mlp + "down_proj"), data(made.prefill, mlp + "down_proj"));

  const fs::path package = folder_ / "p";
  fs::create_directories(package);
  write_package(package,
                {info_, Json::object(), made.prefill, made.decode, OrderedJson{{"chunk", 32}}},
                pool_, silent());
  const auto prefill = SafetensorsFile::open(package / kPrefillFile).tensors;
  EXPECT_EQ(prefill.size(), 2u * 2) << "codes and scales of two gates";
  for (const auto& [name, tensor] : prefill)
    EXPECT_NE(name.find("gate_proj"), std::string::npos) << name;
}

TEST_F(QuantizedLinears, AreCheckedBeforeAnyLongWork) {
  const auto objection = [&](const Rule& added) {
    Recipe recipe;
    recipe.rules = {added};
    return error_of([&] { check_recipe(recipe, graph_); });
  };
  EXPECT_EQ(objection(rule("*.down_proj", {WeightType::kInt4, 48}, {})),
            "[quantize] model.layers.0.mlp.down_proj: K = 128 is not a multiple of the group size "
            "48: expected 128 or 64 or 32 (--group-size for all modules, a rule or "
            "--group-size-per-layer for this one), or --exclude \"model.layers.0.mlp.down_proj\"");
  EXPECT_NE(objection(rule(down_, {}, {WeightType::kUint8, 256}))
                .find("K = 128 is not a multiple of the group size 256: expected"),
            std::string::npos);
  EXPECT_EQ(objection(rule("lm_head", {}, kStatic)),
            "[quantize] lm_head: stands outside the decoder blocks, which alone are calibrated: "
            "expected activations other than static");
  EXPECT_NE(objection(rule("*.nothing", {}, {})).find("matches no module"), std::string::npos);
  Recipe recipe;
  recipe.rules = {rule("lm_head", kDynamic, kDynamic), rule("*.layers.*", {}, kStatic)};
  check_recipe(recipe, graph_);
  // Weights that are quantized are kept, and no others are made of them.
  const Graph int8 = quantize(recipe).prefill;
  recipe.rules = {};
  check_recipe(recipe, int8);
  recipe.rules = {rule("lm_head", {WeightType::kUint4, 32}, {})};
  const std::string again = error_of([&] { check_recipe(recipe, int8); });
  EXPECT_NE(again.find("lm_head: is int8 ["), std::string::npos) << again;
}

// A width that no group size divides stops before any work, and both ways out work.
TEST(OddWidths, HaveTwoWaysOut) {
  const ScratchFolder folder;
  testing::write_tiny_checkpoint(folder / "c", {.intermediate = 172});
  Recipe recipe = testing::quick_recipe(32);
  EXPECT_EQ(
      error_of([&] { testing::quantize_quickly(folder / "c", folder / "p", recipe); }),
      "[quantize] model.layers.0.mlp.down_proj: K = 172 is not a multiple of the group size 32: "
      "none of 32, 64 and 128 divides it: expected --exclude \"model.layers.0.mlp.down_proj\", or "
      "a rule with one scale per row (\"group\": \"row\")");
  EXPECT_FALSE(fs::exists(folder / "p"));
  const std::vector<std::int32_t> ids = {5, 900, 17, 3000};
  for (const bool by_row : {false, true}) {
    recipe.rules.resize(2);
    recipe.rules.push_back(exclude("*.down_proj"));
    if (by_row)
      recipe.rules.back() = {.match = "*.down_proj", .decode = Scheme{WeightType::kUint4, 0}};
    testing::quantize_quickly(folder / "c", folder / "p", recipe);
    ThreadPool pool(2);
    for (const Phase phase : {Phase::kPrefill, Phase::kDecode})
      for (const float value : run_graph(Package::open(folder / "p", pool).graph(phase), ids))
        ASSERT_TRUE(std::isfinite(value));
  }
}

TEST_F(QuantizedLinears, NameTheModuleWhoseWeightIsNotFinite) {
  const Graph good = graph_;
  Rewriter rewriter(good);
  for (NodeId id = 0; id < static_cast<NodeId>(good.nodes().size()); ++id) {
    const Node& node = good.node(id);
    if (node.name != down_) {
      rewriter.copy(id);
      continue;
    }
    std::vector<float> values(64 * 128, 0.5F);
    values[3 * 128 + 5] = std::numeric_limits<float>::quiet_NaN();
    auto linear = node.as<LinearAttributes>();
    linear.weight = FloatWeight(Tensor::from_floats(values, {64, 128}));
    rewriter.copy(id, std::move(linear));
  }
  graph_ = std::move(rewriter).finish();
  for (const Scheme& scheme : {Scheme{WeightType::kUint4, 32}, kDynamic}) {
    Recipe recipe;
    recipe.rules = {rule("*", scheme, scheme)};
    const std::string message = error_of([&] { quantize(recipe); });
    EXPECT_TRUE(message.starts_with("[quantize] model.layers.1.mlp.down_proj: row 3, column 5: "))
        << message;
  }
}

// Weights in a file without a name: equal to those in memory, and whole when the sink is gone.
TEST_F(QuantizedLinears, LieInAFileWithoutAName) {
  Recipe recipe;
  recipe.rules = {rule("*", {WeightType::kUint4, 32}, kDynamic)};
  const Phases expected = quantize(recipe);
  const fs::path scratch = folder_ / "scratch";
  fs::create_directories(scratch);
  Phases made;
  {
    FileSink sink(scratch);
    made = quantize(recipe, sink);
    EXPECT_TRUE(fs::is_empty(scratch));
  }
  for (const Node& node : expected.decode.nodes()) {
    if (node.op != Op::kLinear) continue;
    const auto& got = std::get<GroupCodes>(weight_of(made.decode, node.name));
    const auto& want = std::get<GroupCodes>(node.as<LinearAttributes>().weight);
    EXPECT_NE(got.codes.file(), nullptr);
    EXPECT_NE(got.zero_points.file(), nullptr);
    EXPECT_TRUE(std::ranges::equal(got.codes.bytes(), want.codes.bytes())) << node.name;
    EXPECT_TRUE(std::ranges::equal(got.scales.bytes(), want.scales.bytes())) << node.name;
    EXPECT_TRUE(std::ranges::equal(got.zero_points.bytes(), want.zero_points.bytes()));
    const auto& channels = std::get<ChannelCodes>(weight_of(made.prefill, node.name));
    const auto& other = std::get<ChannelCodes>(weight_of(expected.prefill, node.name));
    EXPECT_NE(channels.codes.file(), nullptr);
    EXPECT_TRUE(std::ranges::equal(channels.codes.bytes(), other.codes.bytes())) << node.name;
    EXPECT_TRUE(std::ranges::equal(channels.scales.bytes(), other.scales.bytes())) << node.name;
  }
  // Letting go of the memory loses nothing.
  release_weights(made.decode);
  const auto& got = std::get<GroupCodes>(weight_of(made.decode, down_));
  EXPECT_TRUE(std::ranges::equal(
      got.codes.bytes(), std::get<GroupCodes>(weight_of(expected.decode, down_)).codes.bytes()));
  const std::string message = error_of([&] { FileSink{folder_ / "none"}; });
  EXPECT_NE(message.find((folder_ / "none").string()), std::string::npos) << message;
}

TEST_F(QuantizedLinears, FloatWeightsStayWhereTheyAre) {
  FileSink sink(folder_.path());
  const Weight& weight = weight_of(graph_, down_);
  EXPECT_EQ(std::get<FloatWeight>(sink.keep(weight)).rows, std::get<FloatWeight>(weight).rows);
}

}  // namespace
}  // namespace tandem
