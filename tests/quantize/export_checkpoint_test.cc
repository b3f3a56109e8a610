// Quantized models as checkpoints for other tools: the same tensors that AMD Quark writes, read
// back here.
#include "quantize/export_checkpoint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "models/model.h"
#include "package/package.h"
#include "quantize/quantize_model.h"
#include "quantize/tiny_checkpoint.h"
#include "support.h"

namespace tandem::testing {
namespace {

constexpr PackedStyle kAwq{PackedStyle::Layout::kAwq};
constexpr PackedStyle kQuark{PackedStyle::Layout::kQuark};
constexpr PackedStyle kGptq{PackedStyle::Layout::kGptq};

// All modules but the head in one scheme.
Recipe recipe_of(const Scheme& scheme, bool with_head = false) {
  Recipe recipe;
  recipe.rules = {{.match = "*", .decode = scheme}};
  if (!with_head) recipe.rules.push_back(exclude("lm_head"));
  return recipe;
}

void quantize(const fs::path& checkpoint, const fs::path& target, const Recipe& recipe,
              const PackedStyle& style, std::int64_t shard_bytes = kShardBytes) {
  ThreadPool pool(2);
  quantize_model({.checkpoint = checkpoint,
                  .calibration = {},
                  .target = target,
                  .export_style = style,
                  .shard_bytes = shard_bytes,
                  .recipe = recipe},
                 pool, silent());
}

struct Case {
  const char* name;
  Scheme scheme;
  PackedStyle style = kQuark;
  bool with_head = false;
};

Scheme uint4(std::int64_t group, DType scales) {
  return {.weights = WeightType::kUint4, .group = group, .scales = scales};
}

class QuarkFile : public ::testing::TestWithParam<Case> {};

// From the float checkpoint: codes, scales, zero points, biases and norms.
TEST_P(QuarkFile, HoldsTheSameTensors) {
  TANDEM_REQUIRE_SHARED("quark");
  const ScratchFolder folder;
  quantize(demo_dir(), folder / "out", recipe_of(GetParam().scheme, GetParam().with_head),
           GetParam().style);
  const auto made = SafetensorsFile::open(folder / "out/model.safetensors");
  const auto quark =
      SafetensorsFile::open(shared_data() / "quark" / GetParam().name / "model.safetensors");
  EXPECT_FALSE(quark.tensors.empty());
  for (const auto& [name, expected] : quark.tensors) {
    ASSERT_TRUE(made.tensors.contains(name)) << name;
    const Tensor& tensor = made.tensors.at(name);
    EXPECT_EQ(tensor.dtype(), expected.dtype()) << name;
    EXPECT_EQ(tensor.shape(), expected.shape()) << name;
    EXPECT_TRUE(std::ranges::equal(tensor.bytes(), expected.bytes())) << name;
  }
  const Json ours = read_json_file(folder / "out/config.json").at("quantization_config");
  const Json theirs = read_json_file(shared_data() / "quark" / GetParam().name / "config.json")
                          .at("quantization_config");
  EXPECT_EQ(ours.at("exclude"), theirs.at("exclude"));
  EXPECT_EQ(ours.at("export"), theirs.at("export"));
  const Json& weight = theirs.at("global_quant_config").at("weight");
  for (const char* key : {"dtype", "qscheme", "ch_axis", "group_size", "symmetric", "observer_cls"})
    EXPECT_EQ(ours.at("global_quant_config").at("weight").at(key), weight.at(key)) << key;
}

INSTANTIATE_TEST_SUITE_P(
    Cases, QuarkFile,
    ::testing::Values(Case{"rtn_g32_bfloat16", uint4(32, DType::kBF16)},
                      Case{"rtn_g64_float16", uint4(64, DType::kF16)},
                      Case{"rtn_g128_float32", uint4(128, DType::kF32)},
                      Case{"rtn_g128_float16_order", uint4(128, DType::kF16),
                           PackedStyle{PackedStyle::Layout::kQuark, false}},
                      Case{"rtn_g128_float16_head", uint4(128, DType::kF16), kQuark, true},
                      Case{"rtn_int4_g128_float16",
                           Scheme{
                               .weights = WeightType::kInt4, .group = 128, .scales = DType::kF16}},
                      Case{"rtn_per_channel_float16", uint4(0, DType::kF16)}),
    [](const auto& each) { return std::string(each.param.name); });

// Opened again, a checkpoint has the weights that the recipe made.
TEST(ExportedCheckpoint, IsReadBack) {
  const ScratchFolder folder;
  const Scheme scheme = uint4(64, DType::kF16);
  for (const PackedStyle& style : {kAwq, kQuark}) {
    const fs::path target = folder / std::string(to_string(style.layout));
    quantize(demo_dir(), target, recipe_of(scheme), style);
    for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"})
      EXPECT_EQ(read_text_file(target / name), read_text_file(demo_dir() / name)) << name;
    const Checkpoint checkpoint = Checkpoint::open(target);
    EXPECT_EQ(checkpoint.config().at("torch_dtype"), "float16");
    EXPECT_EQ(checkpoint.config().at("tie_word_embeddings"), true);
    const Graph graph = build_graph(checkpoint.config_object(), CheckpointWeights(checkpoint));
    int packed = 0;
    for (const Node& node : graph.nodes())
      if (node.op == Op::kLinear)
        packed += describe(node.as<LinearAttributes>().weight).starts_with("int4 g64");
    EXPECT_EQ(packed, 42);
  }
  const Checkpoint awq = Checkpoint::open(folder / "awq"),
                   quark = Checkpoint::open(folder / "quark");
  const std::string module = "model.layers.3.mlp.down_proj";
  EXPECT_EQ(dequantize_rows(awq.linear(module, 256, 768), 0, 256),
            dequantize_rows(quark.linear(module, 256, 768), 0, 256));
}

// From each module's own scheme to a file, and from there to a package, whose tensors are those of a
// package that is made directly.
TEST(ExportedCheckpoint, SchemesOfModulesReachAPackage) {
  for (const DType type : {DType::kF16, DType::kBF16, DType::kF32}) {
    const ScratchFolder folder;
    Recipe recipe = recipe_of(uint4(128, type));
    recipe.rules.push_back({.match = "*.down_proj", .decode = Scheme{WeightType::kInt8, 64, type}});
    recipe.rules.push_back({.match = "*.up_proj", .decode = Scheme{WeightType::kUint8, 32, type}});
    recipe.rules.push_back({.match = "*.k_proj", .decode = Scheme{WeightType::kInt4, 32, type}});
    recipe.rules.push_back({.match = "*.v_proj", .decode = Scheme{WeightType::kUint8, 0, type}});
    quantize(demo_dir(), folder / "file", recipe, kQuark);
    quantize_quickly(demo_dir(), folder / "direct", recipe);
    quantize_quickly(folder / "file", folder / "package");
    ThreadPool pool(1);
    const Graph direct = Package::open(folder / "direct", pool).graph(Phase::kDecode);
    const Graph package = Package::open(folder / "package", pool).graph(Phase::kDecode);
    ASSERT_EQ(direct.nodes().size(), package.nodes().size());
    int compared = 0;
    for (std::size_t i = 0; i < direct.nodes().size(); ++i) {
      if (direct.nodes()[i].op != Op::kLinear || direct.nodes()[i].name == "lm_head") continue;
      const auto& want = std::get<GroupCodes>(direct.nodes()[i].as<LinearAttributes>().weight);
      const auto& got = std::get<GroupCodes>(package.nodes()[i].as<LinearAttributes>().weight);
      EXPECT_EQ(got.group, want.group);
      EXPECT_EQ(got.bits, want.bits);
      EXPECT_EQ(got.scales.dtype(), type);
      EXPECT_TRUE(std::ranges::equal(got.scales.bytes(), want.scales.bytes()));
      EXPECT_EQ(dequantize_rows(got, 0, got.n), dequantize_rows(want, 0, want.n));
      ++compared;
    }
    EXPECT_EQ(compared, 42);
  }
}

// AutoGPTQ's formula for a weight: (code - (zero point + 1)) * scale of the column's group.
std::vector<float> unpack_gptq(const SafetensorsFile& file, const std::string& module,
                               std::int64_t n, std::int64_t k) {
  const auto codes = file.tensors.at(module + ".qweight").as<std::uint32_t>();
  const auto zeros = file.tensors.at(module + ".qzeros").as<std::uint32_t>();
  const auto groups = file.tensors.at(module + ".g_idx").as<std::int32_t>();
  const std::vector<float> scales = file.tensors.at(module + ".scales").to_floats();
  const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
  std::vector<float> values;
  for (std::int64_t row = 0; row < n; ++row)
    for (std::int64_t c = 0; c < k; ++c) {
      const std::int64_t g = groups[at(c)];
      const std::uint32_t code = codes[at(c / 8 * n + row)] >> (c % 8 * 4) & 15;
      const std::uint32_t zero = zeros[at(g * (n / 8) + row / 8)] >> (row % 8 * 4) & 15;
      values.push_back(
          static_cast<float>(static_cast<int>(code) - static_cast<int>((zero + 1) & 15)) *
          scales[at(g * n + row)]);
    }
  return values;
}

TEST(ExportedCheckpoint, HoldsWhatGptqsFormulaReads) {
  const std::string module = "model.layers.3.mlp.down_proj";
  for (const Scheme& scheme : {uint4(64, DType::kF16), uint4(0, DType::kF16),
                               Scheme{WeightType::kInt4, 32, DType::kF32}}) {
    const ScratchFolder folder;
    quantize(demo_dir(), folder / "gptq", recipe_of(scheme), kGptq);
    quantize(demo_dir(), folder / "quark", recipe_of(scheme), kQuark);
    const Checkpoint gptq = Checkpoint::open(folder / "gptq");
    const std::vector<float> expected =
        dequantize_rows(Checkpoint::open(folder / "quark").linear(module, 256, 768), 0, 256);
    EXPECT_EQ(dequantize_rows(gptq.linear(module, 256, 768), 0, 256), expected);
    EXPECT_EQ(
        unpack_gptq(SafetensorsFile::open(folder / "gptq/model.safetensors"), module, 256, 768),
        expected);
    const Json config = gptq.config().at("quantization_config");
    EXPECT_EQ(config.at("group_size"), scheme.group == 0 ? -1 : scheme.group);
    EXPECT_EQ(config.at("sym"), scheme.weights == WeightType::kInt4);
    EXPECT_EQ(config.at("lm_head"), false);
  }
}

TEST(ExportedCheckpoint, TakesTheModelsOwnCodeAlong) {
  const ScratchFolder folder;
  write_tiny_checkpoint(folder / "c");
  write_text_file(folder / "c/modeling_tiny.py", "# nothing\n");
  quantize(folder / "c", folder / "out", recipe_of(uint4(64, DType::kF16)), kAwq);
  EXPECT_EQ(read_text_file(folder / "out/modeling_tiny.py"), "# nothing\n");
}

TEST(ExportedCheckpoint, IsCutIntoShards) {
  const ScratchFolder folder;
  const Recipe recipe = recipe_of(uint4(128, DType::kF16));
  quantize(demo_dir(), folder / "one", recipe, kAwq);
  quantize(demo_dir(), folder / "many", recipe, kAwq, 1'000'000);
  EXPECT_FALSE(fs::exists(folder / "many/model.safetensors"));
  const fs::path path = folder / "many/model.safetensors.index.json";
  const Json index = read_json_file(path);
  const auto one = SafetensorsFile::open(folder / "one/model.safetensors").tensors;
  EXPECT_EQ(index.at("weight_map").size(), one.size());
  std::int64_t total = 0;
  std::set<std::string> files;
  for (const auto& [name, file] : index.at("weight_map").items()) {
    files.insert(file);
    const Tensor& whole = one.at(name);
    const Tensor part =
        SafetensorsFile::open(folder / "many" / file.get<std::string>()).tensors.at(name);
    EXPECT_TRUE(std::ranges::equal(part.bytes(), whole.bytes())) << name;
    total += static_cast<std::int64_t>(whole.bytes().size());
  }
  EXPECT_EQ(index.at("metadata").at("total_size"), total);
  // The embedding is larger than a shard, and has one alone.
  EXPECT_EQ(*files.begin(), fmt::format("model-00001-of-{:05}.safetensors", files.size()));
  EXPECT_GE(files.size(), 4U);
  for (const std::string& file : files) EXPECT_LT(fs::file_size(folder / "many" / file), 2'200'000);
  const Checkpoint checkpoint = Checkpoint::open(folder / "many");
  EXPECT_EQ(describe(checkpoint.linear("model.layers.5.mlp.up_proj", 768, 256)),
            "int4 g128 [768, 256]");
}

TEST(ExportedCheckpoint, UntiesAHeadThatIsPacked) {
  const ScratchFolder folder;
  Recipe recipe = recipe_of(uint4(128, DType::kF16), true);
  recipe.rules.push_back({.match = "lm_head", .decode = uint4(32, DType::kF16)});
  quantize(demo_dir(), folder / "out", recipe, kQuark);
  const Checkpoint checkpoint = Checkpoint::open(folder / "out");
  EXPECT_EQ(checkpoint.config().at("tie_word_embeddings"), false);
  EXPECT_EQ(describe(checkpoint.linear("lm_head", 4096, 256)), "int4 g32 [4096, 256]");
  EXPECT_EQ(describe(checkpoint.linear("model.layers.0.mlp.up_proj", 768, 256)),
            "int4 g128 [768, 256]");
  // The embedding is what it was, to float16.
  const Checkpoint demo = Checkpoint::open(demo_dir());
  EXPECT_EQ(checkpoint.tensor("model.embed_tokens.weight", {4096, 256}).to_floats(),
            demo.tensor("model.embed_tokens.weight", {4096, 256}).to_f16().to_floats());
}

// Gemma's norms are stored less 1.
TEST(ExportedCheckpoint, KeepsNormsAsTheirFamilyStoresThem) {
  const ScratchFolder folder;
  fs::copy(fixture("models/fixtures/gemma2"), folder / "c");
  Json vocabulary = Json::object();
  for (int i = 0; i < 67; ++i) vocabulary[std::string(1, static_cast<char>('0' + i))] = i;
  write_text_file(
      folder / "c/tokenizer.json",
      Json{{"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}}}.dump());
  quantize(folder / "c", folder / "out", recipe_of(uint4(4, DType::kF32)), kQuark);
  const Checkpoint before = Checkpoint::open(folder / "c"),
                   after = Checkpoint::open(folder / "out");
  const Graph a = build_graph(before.config_object(), CheckpointWeights(before));
  const Graph b = build_graph(after.config_object(), CheckpointWeights(after));
  ASSERT_EQ(a.nodes().size(), b.nodes().size());
  int norms = 0;
  for (std::size_t i = 0; i < a.nodes().size(); ++i) {
    if (a.nodes()[i].op != Op::kRmsNorm) continue;
    const auto want = a.nodes()[i].as<RmsNormAttributes>().weight.to_floats();
    const auto got = b.nodes()[i].as<RmsNormAttributes>().weight.to_floats();
    for (std::size_t c = 0; c < want.size(); ++c) EXPECT_NEAR(got[c], want[c], 1e-6F);
    ++norms;
  }
  EXPECT_GT(norms, 4);
}

TEST(ExportedCheckpoint, RefusesBeforeAnyWork) {
  const ScratchFolder folder;
  const auto refused = [&](const Recipe& recipe, const PackedStyle& style,
                           const fs::path& checkpoint = demo_dir()) {
    const std::string message =
        error_of([&] { quantize(checkpoint, folder / "out", recipe, style); });
    EXPECT_FALSE(fs::exists(folder / "out"));
    return message;
  };
  const Scheme with_inputs{WeightType::kInt8, 0, DType::kF32, ActivationType::kDynamic};
  EXPECT_EQ(refused(recipe_of(with_inputs), kQuark),
            "[export] model.layers.0.self_attn.q_proj: int8 with int8 activations is not exported: "
            "expected codes in groups");
  Recipe two = recipe_of(uint4(128, DType::kF16), true);
  two.rules.push_back({.match = "lm_head", .decode = uint4(32, DType::kF16)});
  EXPECT_EQ(refused(two, kAwq),
            "[export] lm_head: AWQ has one group size for all, got 32 beside "
            "128");
  EXPECT_EQ(refused(two, kGptq),
            "[export] lm_head: GPTQ holds 4-bit codes of one kind and group size only");
  EXPECT_EQ(refused(recipe_of({}), kAwq), "[export] every module stays float");
  Recipe apart = recipe_of(uint4(4, DType::kF16));
  apart.rules.push_back(exclude("*.k_proj"));
  EXPECT_EQ(refused(apart, kQuark, fixture("models/fixtures/phi3_longrope")),
            "[export] model.layers.0.self_attn.q_proj and model.layers.0.self_attn.k_proj: are one "
            "module here, model.layers.0.self_attn.qkv_proj: expected one scheme for both");
  // A folder that holds anything is somebody's.
  fs::create_directory(folder / "full");
  write_text_file(folder / "full/x", "");
  EXPECT_NE(error_of([&] {
              quantize(demo_dir(), folder / "full", recipe_of(uint4(128, DType::kF16)), kAwq);
            }).find("full"),
            std::string::npos);
}

}  // namespace
}  // namespace tandem::testing
