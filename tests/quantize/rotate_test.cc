// Rotated graphs compute what they did, in every family, and static int8 survives outliers in them.
#include "quantize/rotate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "checkpoint/safetensors.h"
#include "models/model.h"
#include "quantize/demo_graph.h"
#include "quantize/passes.h"
#include "quantize/planted.h"
#include "quantize/prepare_graph.h"
#include "quantize/quantize_linears.h"
#include "quantize/residual_stream.h"
#include "quantize/run_graph.h"

namespace tandem::testing {
namespace {

MemorySink& memory() {
  static MemorySink sink;
  return sink;
}

Graph rotated(const Graph& graph, const RotateSettings& settings) {
  return rotate(graph, make_rotations(graph, settings), settings, memory());
}

float worst_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return INFINITY;
  float worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

int hadamards(const Graph& graph) {
  return static_cast<int>(std::ranges::count(graph.nodes(), Op::kHadamard, &Node::op));
}

std::vector<std::int32_t> some_ids() { return demo_windows(1, 48).ids; }

TEST(ResidualStream, IsWhatTheBlocksAddTo) {
  const DemoGraph demo;
  const ResidualStream raw = find_residual_stream(demo.graph());
  EXPECT_EQ(raw.objection,
            "model.layers.0.input_layernorm: its gain is in no Linear, so that it would have to be "
            "rotated, too");
  const ResidualStream stream = find_residual_stream(fold_norms(untie_head(demo.graph())));
  EXPECT_EQ(stream.objection, "");
  EXPECT_EQ(stream.width, 256);
  EXPECT_EQ(stream.embeddings.size(), 1U);
  EXPECT_EQ(stream.readers.size(), 6U * 5 + 1) << "q, k, v, gate and up of six blocks, the head";
  EXPECT_EQ(stream.writers.size(), 6U * 2) << "o and down of six blocks";
}

TEST(ResidualStream, NamesWhatCannotBeRotated) {
  const Tensor table = Tensor::from_floats(std::vector<float>(32, 1), {8, 4});
  Graph graph;
  const ValueId ids = graph.add_input({.name = "ids", .dtype = DType::kI32, .width = 1});
  const ValueId x = graph.add(Op::kEmbedding, "embed", -1, {ids}, EmbeddingAttributes{table, 1});
  Graph hidden = graph;
  graph.set_outputs({graph.add(Op::kSilu, "act", 0, {x})});
  EXPECT_EQ(find_residual_stream(graph).objection,
            "act: SiLU of the residual stream is not the same in another basis");
  hidden.set_outputs({x});
  EXPECT_EQ(find_residual_stream(hidden).objection,
            "embed: the residual stream is an output of the graph");
}

class RotatedDemo : public ::testing::TestWithParam<RotateSettings> {};

TEST_P(RotatedDemo, ComputesTheSame) {
  const DemoGraph demo;
  const auto ids = some_ids();
  const std::vector<float> expected = run_graph(demo.graph(), ids);
  const Graph graph = rotated(demo.graph(), GetParam());
  EXPECT_EQ(hadamards(graph), (GetParam().r3 ? 12 : 0) + (GetParam().r4 ? 6 : 0));
  EXPECT_LT(worst_difference(run_graph(graph, ids), expected), 1e-4F);
}

using enum RotationKind;
INSTANTIATE_TEST_SUITE_P(
    Settings, RotatedDemo,
    ::testing::Values(RotateSettings{}, RotateSettings{.r1 = kRandom, .r2 = kRandom, .seed = 9},
                      RotateSettings{.r1 = kNone, .r2 = kNone, .r3 = true, .r4 = false},
                      RotateSettings{.r1 = kNone, .r3 = true},
                      RotateSettings{.r1 = kNone, .r2 = kNone, .r4_block = 32},
                      RotateSettings{.r1 = kNone, .r2 = kNone, .r4_block = 96},
                      RotateSettings{.r2 = kNone, .r4 = false}));

class RotatedFamily : public ::testing::TestWithParam<const char*> {};

// By no name of any module.
TEST_P(RotatedFamily, ComputesTheSame) {
  const fs::path folder = fixture("models/fixtures") / GetParam();
  const Checkpoint checkpoint = Checkpoint::open(folder);
  const Graph graph = build_graph(checkpoint.config_object(), CheckpointWeights(checkpoint));
  const auto reference = SafetensorsFile::open(folder / "reference.safetensors").tensors;
  const auto ids = reference.at("ids").as<std::int32_t>();
  RotateSettings settings{.r3 = true};
  if (std::string(GetParam()) == "gemma2") {
    EXPECT_EQ(error_of([&] { rotated(graph, settings); }),
              "[rotate] model.layers.0.post_attention_layernorm: its gain is in no Linear, so that "
              "it would have to be rotated, too (\"r1\": \"none\" rotates without it)");
    settings.r1 = kNone;
  }
  const Graph turned = rotated(graph, settings);
  EXPECT_EQ(hadamards(turned), graph.layers() * 3);
  EXPECT_LT(worst_difference(run_graph(turned, ids), run_graph(graph, ids)), 1e-4F);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, RotatedFamily,
                         ::testing::Values("llama_rope", "llama_biased", "llama_head_dim",
                                           "llama_yarn", "llama_dynamic", "qwen2_window", "qwen3",
                                           "mistral_window", "phi3_longrope", "chatglm", "smollm3",
                                           "gemma2"));

TEST(Rotate, CuresStaticInt8WhereOutliersArePlanted) {
  ThreadPool pool(2);
  const CalibrationWindows windows = demo_windows(8, 128);
  const std::span<const std::int32_t> ids = std::span(windows.ids).last(256);
  const DemoGraph demo;
  const std::vector<float> expected = run_graph(demo.graph(), ids);
  Recipe recipe;
  recipe.rules = {{.match = "model.*",
                   .prefill = Scheme{.weights = WeightType::kInt8,
                                     .scales = DType::kF32,
                                     .activations = ActivationType::kStatic}}};
  const auto loss = [&](const Graph& graph, std::vector<PassStep> passes) {
    recipe.passes = std::move(passes);
    PassContext context{pool, silent()};
    const PreparedGraph prepared =
        prepare_graph(graph, recipe, {.windows = &windows, .sink = memory()}, context);
    LinearQuantizer quantizer(recipe, prepared.statistics, memory());
    return divergence(expected, run_graph(quantizer.prefill(prepared.graph, context), ids), 4096);
  };
  for (const Absorber absorber : {Absorber::kNorm, Absorber::kLinear, Absorber::kValues}) {
    const Graph graph = planted(demo.graph(), absorber, 50);
    const double plain = loss(graph, {});
    const double turned = loss(graph, {{"rotate"}});
    EXPECT_GT(plain, 0.1) << static_cast<int>(absorber);
    EXPECT_LT(turned, 0.01) << static_cast<int>(absorber);
  }
}

TEST(Rotate, RefusesBlocksThatDoNotFit) {
  const DemoGraph demo;
  EXPECT_EQ(
      error_of([&] { rotated(demo.graph(), {.r4_block = 100}); }),
      "[rotate] model.layers.0.mlp.down_proj: r4: expected a block that divides its 768 columns, "
      "got 100");
}

TEST(Rotate, ReadsRotationsByEitherName) {
  const ScratchFolder folder;
  const DemoGraph demo;
  const RotateSettings settings{.seed = 4};
  const Rotations made = make_rotations(demo.graph(), settings);
  const auto ids = some_ids();
  const std::vector<float> expected = run_graph(demo.graph(), ids);
  for (const bool is_spinquant : {true, false}) {
    std::map<std::string, Tensor> tensors = {{is_spinquant ? "R1" : "R", made.r1->matrix()}};
    for (const auto& [layer, rotation] : made.r2)
      tensors[is_spinquant ? fmt::format("model.layers.{}.self_attn.R2", layer)
                           : fmt::format("R_v.{}", layer)] = rotation.matrix();
    write_safetensors(folder / "r.safetensors", tensors);
    const Rotations read = read_rotations(folder / "r.safetensors");
    ASSERT_TRUE(read.r1);
    EXPECT_EQ(read.r1->matrix().to_floats(), made.r1->matrix().to_floats());
    ASSERT_EQ(read.r2.size(), 6U);
    EXPECT_EQ(read.r2.at(5).matrix().to_floats(), made.r2.at(5).matrix().to_floats());
    EXPECT_LT(
        worst_difference(run_graph(rotate(demo.graph(), read, settings, memory()), ids), expected),
        1e-4F);
  }
}

TEST(Rotate, SavesRotationsInEitherFormat) {
  const ScratchFolder folder;
  const DemoGraph demo;
  const Rotations made = make_rotations(demo.graph(), {.r2 = RotationKind::kRandom});
  for (const char* name : {"r.safetensors", "r.bin"}) {
    write_rotations(folder / name, made);
    const Rotations read = read_rotations(folder / name);
    EXPECT_EQ(read.r1->matrix().to_floats(), made.r1->matrix().to_floats());
    ASSERT_EQ(read.r2.size(), 6U);
    for (const auto& [layer, r2] : made.r2)
      EXPECT_EQ(read.r2.at(layer).matrix().to_floats(), r2.matrix().to_floats());
  }
  Rotations some = made;
  some.r2.erase(2);
  EXPECT_EQ(error_of([&] { write_rotations(folder / "r.bin", some); }),
            "[rotate] " + (folder / "r.bin").string() +
                ": expected R2 for every layer, or NAME.safetensors");
  write_rotations(folder / "r.safetensors", some);
  EXPECT_EQ(read_rotations(folder / "r.safetensors").r2.size(), 5U);
  // As a recipe asks for it.
  Recipe recipe;
  recipe.passes = {{"rotate", {{"save", (folder / "saved.bin").string()}, {"seed", 3}}}};
  ThreadPool pool(1);
  PassContext context{pool, silent()};
  prepare_graph(demo.graph(), recipe, {.sink = memory()}, context);
  EXPECT_EQ(read_rotations(folder / "saved.bin").r1->matrix().to_floats(),
            make_rotations(demo.graph(), {.seed = 3}).r1->matrix().to_floats());
}

// Written by torch.save, in float64.
TEST(Rotate, ReadsTheFileOfMllm) {
  const Rotations read = read_rotations(fixture("quantize/fixtures/mllm_rotation.bin"));
  ASSERT_TRUE(read.r1);
  EXPECT_EQ(read.r1->matrix().to_floats(),
            (std::vector<float>{0.6F, 0.8F, 0, 0, -0.8F, 0.6F, 0, 0, 0, 0, 0, 1, 0, 0, -1, 0}));
  ASSERT_EQ(read.r2.size(), 2U);
  EXPECT_EQ(read.r2.at(1).matrix().to_floats(), (std::vector<float>{0, 1, 1, 0}));
}

TEST(Rotate, NamesWhatIsWrongInAFile) {
  const ScratchFolder folder;
  const auto refusal = [&](const std::map<std::string, Tensor>& tensors) {
    const fs::path path = folder / "r.safetensors";
    write_safetensors(path, tensors);
    const DemoGraph demo;
    const std::string error =
        error_of([&] { rotate(demo.graph(), read_rotations(path), {}, memory()); });
    const std::string prefix = "[rotate] " + path.string() + ": ";
    return error.starts_with(prefix) ? error.substr(prefix.size()) : error;
  };
  const Tensor eye = Tensor::from_floats(std::vector<float>{1, 0, 0, 1}, {2, 2});
  for (const char* name : {"R3", "R_v", "R_v.01", "R_v.-", "model.layers.x.self_attn.R2"})
    EXPECT_EQ(refusal({{name, eye}}),
              std::string(name) + ": expected R1 and model.layers.N.self_attn.R2, or R and R_v");
  EXPECT_EQ(refusal({{"R1", eye}}), "[rotate] R1: expected 256 rows, got 2");
  EXPECT_EQ(refusal({{"model.layers.3.self_attn.R2", eye}}),
            "[rotate] model.layers.3.self_attn.R2: expected 64 rows, got 2");
  EXPECT_EQ(refusal({{"R_v.6", eye}}),
            "[rotate] model.layers.6.self_attn.R2: the model has 6 layers");
  EXPECT_EQ(refusal({{"R1", Tensor::from_floats(std::vector<float>{1, 1, 0, 1}, {2, 2})}}),
            "R1: [rotation] expected an orthogonal matrix: the product of column 0 with the others "
            "is off by 1");
}

}  // namespace
}  // namespace tandem::testing
