// The passes that a recipe can name: what they change, and that the model computes what it did.
#include "quantize/passes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "checkpoint/safetensors.h"
#include "graph/rewriter.h"
#include "models/model.h"
#include "quantize/demo_graph.h"
#include "quantize/quantize_model.h"
#include "quantize/run_graph.h"
#include "quantize/tiny_checkpoint.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem {
namespace {

using testing::DemoGraph;
using testing::error_of;
using testing::run_graph;
using testing::ScratchFolder;

std::vector<std::int32_t> some_ids() {
  auto ids = Tokenizer::open(testing::demo_dir())
                 .encode(read_text_file(testing::demo_dir() / "eval_stories.txt"));
  ids.resize(70);
  return ids;
}

// Of the largest logit.
void expect_close(const std::vector<float>& got, const std::vector<float>& expected,
                  float tolerance) {
  ASSERT_EQ(got.size(), expected.size());
  float largest = 0, difference = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    largest = std::max(largest, std::fabs(expected[i]));
    difference = std::max(difference, std::fabs(got[i] - expected[i]));
  }
  EXPECT_GT(largest, 1);
  EXPECT_LE(difference, largest * tolerance);
}

const LinearAttributes& head_of(const Graph& graph) {
  const auto found = std::ranges::find(graph.nodes(), std::string("lm_head"), &Node::name);
  return found->as<LinearAttributes>();
}

const Tensor& table_of(const Graph& graph) {
  const auto found = std::ranges::find(graph.nodes(), Op::kEmbedding, &Node::op);
  return found->as<EmbeddingAttributes>().table;
}

bool has_tied_head(const Graph& graph) {
  const Tensor* head = std::get<FloatWeight>(head_of(graph).weight).rows->stored();
  return head != nullptr && head->bytes().data() == table_of(graph).bytes().data();
}

// Norms whose gains are not all ones.
int gains(const Graph& graph) {
  return static_cast<int>(std::ranges::count_if(graph.nodes(), [](const Node& node) {
    if (node.op != Op::kRmsNorm) return false;
    const auto gain = node.as<RmsNormAttributes>().weight.to_floats();
    return std::ranges::any_of(gain, [](float g) { return g != 1.0F; });
  }));
}

Recipe float_recipe(std::vector<PassStep> passes) {
  Recipe recipe;
  recipe.passes = std::move(passes);
  return recipe;
}

TEST(Passes, FoldNormsLeavesGainsOfOne) {
  const DemoGraph demo;
  ASSERT_EQ(gains(demo.graph()), 13);
  const Graph folded = fold_norms(demo.graph());
  verify(folded);
  EXPECT_EQ(gains(folded), 0);
  EXPECT_EQ(folded.nodes().size(), demo.graph().nodes().size());
  EXPECT_FALSE(has_tied_head(folded)) << "the last norm's gain is the head's now";
  const auto ids = some_ids();
  expect_close(run_graph(folded, ids), run_graph(demo.graph(), ids), 1e-5F);
  // Again: nothing is left to fold.
  expect_close(run_graph(fold_norms(folded), ids), run_graph(demo.graph(), ids), 1e-5F);
}

// A norm whose output somebody else reads keeps its gain, and so do all that read it.
TEST(Passes, FoldNormsLeavesNormsThatOthersRead) {
  const auto build = [](bool is_read_by_more) {
    Graph graph;
    const ValueId ids = graph.add_input({.name = "ids", .dtype = DType::kI32, .width = 1});
    const auto matrix = [](std::int64_t n, std::int64_t k, float value) {
      return Tensor::from_floats(std::vector<float>(static_cast<std::size_t>(n * k), value),
                                 {n, k});
    };
    ValueId x =
        graph.add(Op::kEmbedding, "embed", -1, {ids}, EmbeddingAttributes{matrix(10, 8, 0.5F), 1});
    const ValueId norm = graph.add(
        Op::kRmsNorm, "norm", -1, {x},
        RmsNormAttributes{Tensor::from_floats(std::vector<float>(8, 2.0F), {8}), 1e-6F, 1});
    const ValueId linear = graph.add(Op::kLinear, "linear", -1, {norm},
                                     LinearAttributes{FloatWeight(matrix(8, 8, 3)), {}});
    graph.set_outputs(
        {is_read_by_more ? graph.add(Op::kAdd, "residual", -1, {linear, norm}) : linear});
    return graph;
  };
  const auto weight = [](const Graph& graph) {
    return dequantize_rows(graph.node(2).as<LinearAttributes>().weight, 0, 1).front();
  };
  EXPECT_EQ(gains(fold_norms(build(false))), 0);
  EXPECT_EQ(weight(fold_norms(build(false))), 6.0F);
  EXPECT_EQ(gains(fold_norms(build(true))), 1);
  EXPECT_EQ(weight(fold_norms(build(true))), 3.0F);
  // An output of the graph is read by whoever runs it.
  Graph graph = build(false);
  graph.set_outputs({graph.outputs()[0], graph.node(1).output()});
  EXPECT_EQ(gains(fold_norms(graph)), 1);
}

TEST(Passes, UntieHeadGivesItAWeightOfItsOwn) {
  const DemoGraph demo;
  ASSERT_TRUE(has_tied_head(demo.graph()));
  const Graph untied = untie_head(demo.graph());
  EXPECT_FALSE(has_tied_head(untied));
  EXPECT_EQ(dump(untied), dump(demo.graph()));
  EXPECT_EQ(dequantize_rows(head_of(untied).weight, 0, 4096), table_of(untied).to_floats());
  // Nothing more to do.
  EXPECT_EQ(dump(untie_head(untied)), dump(untied));
}

TEST(Passes, HaveNamesAndSettings) {
  const Recipe recipe;
  MemorySink sink;
  const PassInputs no_text{nullptr, sink};
  for (const std::string name : {"fold_norms", "untie_head", "mse_clip"}) {
    EXPECT_EQ(objection_to_pass({name}), "");
    EXPECT_EQ(make_pass({name}, recipe, no_text).name, name);
    EXPECT_NE(objection_to_pass({name, Json{{"x", 1}}}), "");
  }
  EXPECT_EQ(
      objection_to_pass({"awq", Json{{"search_tokens", 0}, {"clip", false}, {"compat", "quark"}}}),
      "");
  for (const auto& [settings, objection] :
       {std::pair{Json{{"search_tokens", -1}}, "search_tokens: expected an integer in [0, "},
        {Json{{"search_tokens", 1.5}}, "search_tokens"},
        {Json{{"clip", 1}}, "clip: expected true or false, got 1"},
        {Json{{"compat", "autoawq"}}, "compat: expected \"quark\", got \"autoawq\""},
        {Json{{"search_tokens", "many"}}, "search_tokens"},
        {Json{{"duo", true}}, "awq has the settings search_tokens, clip, compat, got \"duo\""}})
    EXPECT_NE(objection_to_pass({"awq", settings}).find(objection), std::string::npos) << objection;
  EXPECT_EQ(objection_to_pass({"smoothquant", Json{{"alpha", 0.8}, {"everywhere", true}}}), "");
  EXPECT_EQ(
      objection_to_pass(
          {"smoothquant", Json{{"alpha", "search"}, {"everywhere", true}, {"search_tokens", 0}}}),
      "");
  EXPECT_EQ(objection_to_pass({"smoothquant", Json{{"alpha", 1.5}}}),
            "alpha: expected a number in [0, 1] or \"search\", got 1.5");
  EXPECT_EQ(objection_to_pass({"smoothquant", Json{{"search_tokens", -1}}}),
            "search_tokens: expected an integer in [0, 1073741824], got -1");
  EXPECT_EQ(objection_to_pass({"gptq", Json{{"damping", 0.05}, {"act_order", false}}}), "");
  EXPECT_EQ(objection_to_pass({"gptq", Json{{"damping", -1}}}),
            "damping: expected a number in [0, 1], got -1");
  for (const std::string name : {"smoothquant", "awq", "seqmse", "gptq"})
    EXPECT_EQ(error_of([&] { make_pass({name}, recipe, no_text); }),
              fmt::format("[recipe] {} learns from a text: expected one", name));
  EXPECT_EQ(error_of([&] { make_pass({"unroll"}, {}, no_text); }),
            "[recipe] expected a pass, one of fold_norms, untie_head, rotate, smoothquant, awq, "
            "mse_clip, "
            "seqmse, "
            "gptq, got \"unroll\"");
}

// From the checkpoint through a package on disk: the model is the same, its graph another.
TEST(Passes, FloatPackageComputesWhatTheCheckpointDoes) {
  const ScratchFolder folder;
  const auto ids = some_ids();
  const DemoGraph demo;
  const std::vector<float> expected = run_graph(demo.graph(), ids);
  ThreadPool pool(2);
  const auto quantize = [&](const char* target, std::vector<PassStep> passes) {
    const QuantizeReport report = quantize_model({.checkpoint = testing::demo_dir(),
                                                  .calibration = {},
                                                  .target = folder / target,
                                                  .recipe = float_recipe(std::move(passes))},
                                                 pool, silent());
    EXPECT_EQ(report.calibration_tokens, 0);
    return Package::open(folder / target, pool);
  };
  {
    const Package plain = quantize("plain", {});
    for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
      const Graph graph = plain.graph(phase);
      EXPECT_TRUE(has_tied_head(graph));
      EXPECT_EQ(run_graph(graph, ids), expected) << "the same weights, the same bits";
    }
    EXPECT_FALSE(plain.tensors().contains("decode.safetensors:lm_head.weight"));
    EXPECT_TRUE(SafetensorsFile::open(folder / "plain" / kPrefillFile).tensors.empty());
  }
  const std::int64_t table = table_of(demo.graph()).elements();
  {
    const Package untied = quantize("untied", {{"untie_head"}});
    const Graph graph = untied.graph(Phase::kDecode);
    EXPECT_FALSE(has_tied_head(graph));
    EXPECT_EQ(run_graph(graph, ids), expected);
    const Tensor& head = untied.tensors().at("decode.safetensors:lm_head.weight");
    EXPECT_EQ(head.dtype(), table_of(graph).dtype());
    EXPECT_EQ(
        fs::file_size(folder / "untied" / kDecodeFile) / 1000,
        (fs::file_size(folder / "plain" / kDecodeFile) + static_cast<std::uintmax_t>(table) * 2) /
            1000);
  }
  {
    const Package folded = quantize("folded", {{"fold_norms"}, {"untie_head"}});
    for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
      const Graph graph = folded.graph(phase);
      EXPECT_EQ(gains(graph), 0);
      EXPECT_FALSE(has_tied_head(graph));
      expect_close(run_graph(graph, ids), expected, 1e-5F);
    }
    EXPECT_EQ(folded.manifest()["recipe"]["passes"], Json::array({"fold_norms", "untie_head"}));
  }
}

// What calibration sees and what is quantized is the graph that the passes made.
TEST(Passes, QuantizeWhatThePassesMade) {
  const ScratchFolder folder;
  testing::write_tiny_checkpoint(folder / "c");
  Recipe recipe = testing::quick_recipe();
  recipe.passes = {{"fold_norms"}};
  const QuantizeReport report = testing::quantize_quickly(folder / "c", folder / "p", recipe);
  ASSERT_EQ(report.passes.size(), 3u);
  EXPECT_EQ(report.passes[0].pass, "fold_norms");
  const Checkpoint checkpoint = Checkpoint::open(folder / "c");
  const Graph folded =
      fold_norms(build_graph(checkpoint.config_object(), CheckpointWeights(checkpoint)));
  ThreadPool pool(1);
  const Graph decode = Package::open(folder / "p", pool).graph(Phase::kDecode);
  EXPECT_EQ(gains(decode), 0);
  // Half a step of int4 and a little.
  for (std::size_t i = 0; i < decode.nodes().size(); ++i) {
    if (decode.nodes()[i].op != Op::kLinear) continue;
    const Weight& weight = decode.nodes()[i].as<LinearAttributes>().weight;
    const auto got = dequantize_rows(weight, 0, output_channels(weight));
    const auto expected = dequantize_rows(folded.nodes()[i].as<LinearAttributes>().weight, 0,
                                          output_channels(weight));
    for (std::size_t j = 0; j < got.size(); ++j)
      ASSERT_NEAR(got[j], expected[j], 0.01F) << decode.nodes()[i].name << " " << j;
  }
}

}  // namespace
}  // namespace tandem
