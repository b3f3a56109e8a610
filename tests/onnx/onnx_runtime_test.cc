// Models of every family in ONNX Runtime: its logits against ours, read at once and through the cache.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "checkpoint/safetensors.h"
#include "graph/rewriter.h"
#include "models/graph_interpreter.h"
#include "models/model.h"
#include "onnx/export_model.h"
#include "onnx/family_graph.h"
#include "onnx/model_file.h"
#include "support.h"

namespace tandem {
namespace {

using testing::CodeForm;
using testing::FamilyModel;
using testing::fixture;
using testing::interpret;
using testing::make_family;
using testing::ModelFile;
using testing::with_codes;
using testing::with_int8;

std::string python() {
  const char* chosen = std::getenv("TANDEM_TEST_PYTHON");
  return chosen != nullptr ? chosen : "python3";
}

bool has_onnx_runtime() {
  static const bool has =
      std::system(fmt::format("'{}' -c 'import onnxruntime' >/dev/null 2>&1", python()).c_str()) ==
      0;
  return has;
}

#define TANDEM_REQUIRE_ONNX_RUNTIME() \
  if (!has_onnx_runtime())            \
  GTEST_SKIP() << python() << " has no onnxruntime (set TANDEM_TEST_PYTHON to one that has)"

// Starts once; each line that it reads is a folder.
FILE* peer() {
  static FILE* const process = ::popen(
      fmt::format("'{}' '{}' logits", python(), fixture("onnx/onnx_runtime_peer.py").string())
          .c_str(),
      "w");
  return process;
}

// Logits of all ids, the first `first` read at once.
std::vector<float> logits_in_onnx_runtime(const fs::path& folder,
                                          const std::vector<std::int32_t>& ids, std::size_t first) {
  write_text_file(folder / "ids.json", Json{{"ids", ids}, {"first", first}}.dump());
  fs::remove(folder / "done");
  std::fprintf(peer(), "%s\n", folder.c_str());
  std::fflush(peer());
  for (int tries = 0; !fs::exists(folder / "done"); ++tries) {
    if (tries == 60'000) {
      ADD_FAILURE() << "no answer of onnxruntime within a minute";
      return {};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(read_text_file(folder / "done"), "");
  if (!fs::exists(folder / "logits.bin")) return {};
  const auto file = MappedFile::open(folder / "logits.bin");
  std::vector<float> logits(file->bytes().size() / sizeof(float));
  std::memcpy(logits.data(), file->bytes().data(), logits.size() * sizeof(float));
  return logits;
}

float worst_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size() || a.empty()) return INFINITY;
  float worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

std::vector<std::int32_t> some_ids(std::size_t count, std::int64_t vocabulary) {
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < count; ++i)
    ids.push_back(
        static_cast<std::int32_t>(3 + (i * i * 7 + i) % static_cast<std::size_t>(vocabulary - 3)));
  return ids;
}

constexpr const char* kFamilies[] = {
    "llama_rope",     "llama_biased",  "llama_head_dim", "llama_yarn", "qwen2_window", "qwen3",
    "mistral_window", "phi3_longrope", "gemma2",         "chatglm",    "smollm3"};
// Of the fixtures of these, heads are multiples of 8, as ONNX Runtime wants them.
constexpr const char* kRunnable[] = {"llama_biased",  "llama_head_dim", "qwen2_window", "qwen3",
                                     "phi3_longrope", "gemma2",         "chatglm"};

class OnnxRuntimeFixture : public ::testing::TestWithParam<const char*> {};

// Checkpoints in float, whose logits transformers computed.
TEST_P(OnnxRuntimeFixture, GivesTheLogitsOfTransformers) {
  TANDEM_REQUIRE_ONNX_RUNTIME();
  const fs::path folder = fixture("models/fixtures") / GetParam();
  const Checkpoint checkpoint = Checkpoint::open(folder);
  const Graph graph = build_graph(checkpoint.config_object(), CheckpointWeights(checkpoint));
  const ModelInfo info = read_model_info(checkpoint.config_object());
  const auto reference = SafetensorsFile::open(folder / "reference.safetensors").tensors;
  for (const auto& [provider, dialect] :
       {std::pair{"cpu", "0.18"}, {"dml", "0.18"}, {"cpu", "0.5.1"}, {"dml", "0.5.1"}}) {
    const testing::ScratchFolder scratch;
    export_model(scratch.path(), graph, info,
                 {.provider = find_onnx_provider(provider), .dialect = find_onnx_dialect(dialect)});
    EXPECT_EQ(ModelFile(scratch / "model.onnx").flaw(), "");
    const auto values = reference.at("ids").as<std::int32_t>();
    std::vector<std::int32_t> ids(values.begin(), values.end());
    EXPECT_LT(worst_difference(logits_in_onnx_runtime(scratch.path(), ids, ids.size()),
                               reference.at("logits").to_floats()),
              2e-4)
        << provider << dialect;
    if (!reference.contains("logits_short")) continue;
    ids.resize(static_cast<std::size_t>(reference.at("logits_short").dim(0)));
    EXPECT_LT(worst_difference(logits_in_onnx_runtime(scratch.path(), ids, ids.size() / 2),
                               reference.at("logits_short").to_floats()),
              2e-4)
        << provider << dialect;
  }
}

class OnnxRuntimeFamily : public ::testing::TestWithParam<const char*> {};

// Codes with and without zero points, in groups that differ between layers. Without an accuracy level
// activations stay float, so that nothing is lost but rounding.
TEST_P(OnnxRuntimeFamily, MultipliesCodesAsTheyAre) {
  TANDEM_REQUIRE_ONNX_RUNTIME();
  const FamilyModel model = make_family(GetParam());
  const std::vector<std::int32_t> ids = some_ids(40, model.info.vocabulary);
  {
    const testing::ScratchFolder scratch;
    export_model(scratch.path(), model.graph, model.info, {});
    EXPECT_LT(worst_difference(logits_in_onnx_runtime(scratch.path(), ids, 30),
                               interpret(model.graph, ids)),
              5e-4);
  }
  for (const CodeForm& form : {CodeForm{}, {.is_signed = true, .has_zero_points = false}}) {
    const Graph graph = with_codes(model.graph, form, true);
    OnnxOptions options;
    options.provider.accuracy_level = 0;
    const testing::ScratchFolder scratch;
    const OnnxReport report = export_model(scratch.path(), graph, model.info, options);
    EXPECT_EQ(report.float_linears, 0);
    EXPECT_EQ(ModelFile(scratch / "model.onnx").flaw(), "");
    EXPECT_LT(
        worst_difference(logits_in_onnx_runtime(scratch.path(), ids, 30), interpret(graph, ids)),
        2e-3);
  }
}

// The demo model, in float and in codes of which activations are rounded or not.
TEST(OnnxRuntimeDemo, GivesOurLogits) {
  TANDEM_REQUIRE_ONNX_RUNTIME();
  const Checkpoint checkpoint = Checkpoint::open(testing::demo_dir());
  const Graph graph = build_graph(checkpoint.config_object(), CheckpointWeights(checkpoint));
  const ModelInfo info = read_model_info(checkpoint.config_object());
  const Graph codes = with_codes(graph, {}, true);
  const std::vector<std::int32_t> ids = some_ids(24, info.vocabulary);
  struct Case {
    const Graph& graph;
    std::int64_t accuracy_level;
    float bound;
  };
  for (const Case& run : {Case{graph, 0, 1e-3F}, {codes, 0, 2e-3F}, {codes, 4, 0.5F}}) {
    const testing::ScratchFolder scratch;
    OnnxOptions options;
    options.provider.accuracy_level = run.accuracy_level;
    export_model(scratch.path(), run.graph, info, options);
    const float worst = worst_difference(logits_in_onnx_runtime(scratch.path(), ids, 16),
                                         interpret(run.graph, ids));
    EXPECT_LT(worst, run.bound) << run.accuracy_level;
    RecordProperty(fmt::format("worst_{}_{}", run.bound, run.accuracy_level),
                   fmt::format("{:.2g}", worst));
  }
}

// The table is the head's codes: a graph whose embedding has their values says what is expected.
TEST(OnnxRuntimeShared, EmbeddingReadsTheHeadsCodes) {
  TANDEM_REQUIRE_ONNX_RUNTIME();
  const FamilyModel model = make_family("gemma2");
  for (const CodeForm& form : {CodeForm{}, {.is_signed = true, .has_zero_points = false}}) {
    const Graph graph = with_codes(model.graph, form);
    Rewriter rewriter(graph);
    const Weight& head =
        std::ranges::find(graph.nodes(), "lm_head", &Node::name)->as<LinearAttributes>().weight;
    for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
      Attributes attributes = graph.node(id).attributes;
      if (auto* embedding = std::get_if<EmbeddingAttributes>(&attributes))
        embedding->table = Tensor::from_floats(dequantize_rows(head, 0, output_channels(head)),
                                               embedding->table.shape());
      rewriter.copy(id, std::move(attributes));
    }
    const std::vector<float> expected = interpret(std::move(rewriter).finish(), some_ids(20, 67));
    const testing::ScratchFolder scratch;
    OnnxOptions options;
    options.provider.accuracy_level = 0;
    options.shared_embeddings = true;
    export_model(scratch.path(), graph, model.info, options);
    const ModelFile file(scratch / "model.onnx");
    EXPECT_EQ(file.flaw(), "");
    EXPECT_EQ(file.node("/model/embed_tokens/GatherBlockQuantized").input(2),
              "lm_head.MatMulNBits.scales");
    EXPECT_LT(
        worst_difference(logits_in_onnx_runtime(scratch.path(), some_ids(20, 67), 12), expected),
        2e-3);
  }
}

// Half of each head, in sizes that attention rotates itself.
TEST(OnnxRuntimePartialRotary, IsInAttention) {
  TANDEM_REQUIRE_ONNX_RUNTIME();
  const FamilyModel model = make_family("chatglm", 32);
  const std::vector<std::int32_t> ids = some_ids(20, model.info.vocabulary);
  const testing::ScratchFolder scratch;
  EXPECT_FALSE(export_model(scratch.path(), model.graph, model.info, {}).position_ids);
  EXPECT_EQ(ModelFile(scratch / "model.onnx").shape("cos_cache")[1], 8);
  EXPECT_LT(worst_difference(logits_in_onnx_runtime(scratch.path(), ids, 12),
                             interpret(model.graph, ids)),
            5e-4);
}

// Online transforms, as rotated packages have them: a block that is one matrix, and one of two.
TEST(OnnxRuntimeHadamard, IsTheTransform) {
  TANDEM_REQUIRE_ONNX_RUNTIME();
  const FamilyModel model = make_family("llama_biased");
  Rewriter rewriter(model.graph);
  for (NodeId id = 0; id < static_cast<NodeId>(model.graph.nodes().size()); ++id) {
    const Node& node = model.graph.node(id);
    rewriter.copy(id);
    const bool is_inner = node.op == Op::kMul, is_query = node.name.ends_with("o_proj");
    if (is_inner || is_query)
      rewriter.replace(node.output(), rewriter.add(Op::kHadamard, node.name + ".hadamard",
                                                   node.layer, {rewriter(node.output())},
                                                   HadamardAttributes{is_inner ? 32 : 64}));
    if (node.op == Op::kRmsNorm && node.name.ends_with("input_layernorm"))
      rewriter.replace(node.output(),
                       rewriter.add(Op::kHadamard, node.name + ".hadamard", node.layer,
                                    {rewriter(node.output())}, HadamardAttributes{16}));
  }
  const Graph graph = std::move(rewriter).finish();
  const std::vector<std::int32_t> ids = some_ids(20, model.info.vocabulary);
  const testing::ScratchFolder scratch;
  export_model(scratch.path(), graph, model.info, {});
  EXPECT_EQ(ModelFile(scratch / "model.onnx").flaw(), "");
  EXPECT_LT(
      worst_difference(logits_in_onnx_runtime(scratch.path(), ids, 12), interpret(graph, ids)),
      5e-4);
}

// Static int8: integers of ONNX Runtime against those of the interpreter.
TEST(OnnxRuntimeInt8, GivesTheSameIntegers) {
  TANDEM_REQUIRE_ONNX_RUNTIME();
  for (const char* family : {"llama_biased", "qwen3", "phi3_longrope"}) {
    const FamilyModel model = make_family(family);
    const std::vector<std::int32_t> ids = some_ids(20, model.info.vocabulary);
    std::vector<float> clipped;
    for (const bool has_shadows : {false, true}) {
      const Graph graph = with_int8(model.graph, has_shadows);
      const std::vector<float> expected = interpret(graph, ids);
      const testing::ScratchFolder scratch;
      const OnnxReport report = export_model(scratch.path(), graph, model.info, {});
      EXPECT_EQ(report.int8_linears, 7 * model.info.layers);
      EXPECT_EQ(ModelFile(scratch / "model.onnx").flaw(), "");
      EXPECT_LT(worst_difference(logits_in_onnx_runtime(scratch.path(), ids, 12), expected), 1e-3)
          << family << has_shadows;
      // That there is something for shadows to add.
      if (has_shadows) {
        EXPECT_GT(worst_difference(clipped, expected), 0.01) << family;
      }
      clipped = expected;
    }
  }
}

// Activations, cache and weights in float16.
TEST(OnnxRuntimeHalf, IsNearFloat) {
  TANDEM_REQUIRE_ONNX_RUNTIME();
  const FamilyModel model = make_family("llama_biased");
  const std::vector<std::int32_t> ids = some_ids(20, model.info.vocabulary);
  for (const Graph& graph : {model.graph, with_codes(model.graph, {})}) {
    const std::vector<float> expected = interpret(graph, ids);
    for (const char* provider : {"cpu", "dml"}) {
      const testing::ScratchFolder scratch;
      OnnxOptions options{.provider = find_onnx_provider(provider), .type = OnnxType::kFloat16};
      options.provider.accuracy_level = 0;
      export_model(scratch.path(), graph, model.info, options);
      const std::vector<float> got = logits_in_onnx_runtime(scratch.path(), ids, 12);
      EXPECT_LT(worst_difference(got, expected), 0.1) << provider;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, OnnxRuntimeFixture, ::testing::ValuesIn(kRunnable),
                         [](const auto& family) { return std::string(family.param); });
INSTANTIATE_TEST_SUITE_P(All, OnnxRuntimeFamily, ::testing::ValuesIn(kFamilies),
                         [](const auto& family) { return std::string(family.param); });

}  // namespace
}  // namespace tandem
