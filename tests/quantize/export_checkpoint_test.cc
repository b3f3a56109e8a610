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
#include "quantize/rtn.h"
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
    // Of int8 inputs, which are not exported.
    if (name.find(".input_") != std::string::npos) continue;
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
    ::testing::Values(
        Case{"rtn_g32_bfloat16", uint4(32, DType::kBF16)},
        Case{"rtn_g64_float16", uint4(64, DType::kF16)},
        Case{"rtn_g128_float32", uint4(128, DType::kF32)},
        Case{"rtn_g128_float16_order", uint4(128, DType::kF16),
             PackedStyle{PackedStyle::Layout::kQuark, false}},
        Case{"rtn_g128_float16_head", uint4(128, DType::kF16), kQuark, true},
        Case{"rtn_int4_g128_float16",
             Scheme{.weights = WeightType::kInt4, .group = 128, .scales = DType::kF16}},
        Case{"rtn_per_channel_float16", uint4(0, DType::kF16)},
        Case{"int8_float32",
             Scheme{.weights = WeightType::kInt8, .group = kWholeTensor, .scales = DType::kF32}}),
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

// A tiny checkpoint of a family, with a tokenizer for its vocabulary of 67.
void write_family(const fs::path& folder, const std::string& family) {
  fs::copy(fixture("models/fixtures") / family, folder);
  Json vocabulary = Json::object();
  for (int i = 0; i < 67; ++i) vocabulary[std::string(1, static_cast<char>('0' + i))] = i;
  write_text_file(
      folder / "tokenizer.json",
      Json{{"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}}}.dump());
}

// Gemma's norms are stored less 1.
TEST(ExportedCheckpoint, KeepsNormsAsTheirFamilyStoresThem) {
  const ScratchFolder folder;
  write_family(folder / "c", "gemma2");
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

struct FusedCase {
  const char* family;
  std::string layer;
  std::string qkv, gate_up, down, head;
};
std::vector<FusedCase> fused_cases() {
  return {{"phi3_longrope", "model.layers.1.", "self_attn.qkv_proj", "mlp.gate_up_proj",
           "mlp.down_proj", "lm_head"},
          {"chatglm", "transformer.encoder.layers.1.", "self_attention.query_key_value",
           "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "transformer.output_layer"}};
}

// Exactly: in the types of both, all values fit.
void expect_same_values(const Weight& got, const Weight& want, const std::string& name) {
  ASSERT_EQ(describe(got), describe(want)) << name;
  const std::int64_t n = output_channels(want);
  EXPECT_EQ(dequantize_rows(got, 0, n), dequantize_rows(want, 0, n)) << name;
}

// A row's codes depend on no other row: a fused tensor is what rounding the checkpoint's own gives.
TEST(ExportedCheckpoint, JoinsWhatItsFamilyFuses) {
  for (const FusedCase& family : fused_cases())
    for (const PackedStyle& style : {kAwq, kGptq, kQuark}) {
      SCOPED_TRACE(std::string(family.family) + " " + std::string(to_string(style.layout)));
      const ScratchFolder folder;
      write_family(folder / "c", family.family);
      Recipe recipe = recipe_of(uint4(32, DType::kF32));
      // Its 60 columns are no whole groups.
      recipe.rules.push_back(exclude("*.down_proj"));
      quantize(folder / "c", folder / "out", recipe, style);
      const Checkpoint before = Checkpoint::open(folder / "c"),
                       after = Checkpoint::open(folder / "out");
      std::set<std::string> names;
      for (const auto& [name, shape] : before.contents()) names.insert(name);
      for (const auto& [name, shape] : after.contents()) EXPECT_TRUE(names.contains(name)) << name;
      EXPECT_EQ(after.contents().size(), names.size());

      ThreadPool pool(1);
      for (const std::string& module : {family.layer + family.qkv, family.layer + family.gate_up}) {
        const Shape shape = before.contents().at(module + ".weight");
        const Weight own = before.linear(module, shape[0], shape[1]);
        const GroupFormat format{.group = 32, .scales = DType::kF32};
        expect_same_values(
            after.linear(module, shape[0], shape[1]),
            quantize_group_codes(*std::get<FloatWeight>(own).rows, format, module, pool), module);
        if (!names.contains(module + ".bias")) continue;
        EXPECT_EQ(after.tensor(module + ".bias", {shape[0]}).to_floats(),
                  before.tensor(module + ".bias", {shape[0]}).to_floats());
      }
      const Json config = after.config().at("quantization_config");
      const std::vector<std::string> floats = {family.layer + family.down, family.head};
      if (style.layout == PackedStyle::Layout::kGptq) {
        EXPECT_EQ(config.at("dynamic").size(), 2U) << "down of two layers";
        continue;
      }
      const Json& listed = config.at(
          style.layout == PackedStyle::Layout::kQuark ? "exclude" : "modules_to_not_convert");
      EXPECT_EQ(listed.size(), 3U);
      for (const std::string& name : floats)
        EXPECT_NE(std::ranges::find(listed, Json(name)), listed.end()) << name;
    }
}

// What stays float is joined, too, and the graph of the result is the one that was made.
TEST(ExportedCheckpoint, JoinsFloatsAndWhatIsPackedAlready) {
  for (const FusedCase& family : fused_cases()) {
    const ScratchFolder folder;
    write_family(folder / "c", family.family);
    Recipe recipe = recipe_of(uint4(4, DType::kF32));
    for (const char* part : {"*.q_proj", "*.k_proj", "*.v_proj"})
      recipe.rules.push_back(exclude(part));
    quantize(folder / "c", folder / "quark", recipe, kQuark);
    // Its codes in the words of another tool.
    quantize(folder / "quark", folder / "awq", recipe, kAwq);
    const Checkpoint before = Checkpoint::open(folder / "c"),
                     awq = Checkpoint::open(folder / "awq");
    const std::string qkv = family.layer + family.qkv;
    const Shape shape = before.contents().at(qkv + ".weight");
    EXPECT_EQ(dequantize_rows(awq.linear(qkv, shape[0], shape[1]), 0, shape[0]),
              dequantize_rows(before.linear(qkv, shape[0], shape[1]), 0, shape[0]));
    const Checkpoint quark = Checkpoint::open(folder / "quark");
    const Graph a = build_graph(quark.config_object(), CheckpointWeights(quark));
    const Graph b = build_graph(awq.config_object(), CheckpointWeights(awq));
    ASSERT_EQ(dump(a), dump(b));
    int packed = 0;
    for (std::size_t i = 0; i < a.nodes().size(); ++i) {
      if (a.nodes()[i].op != Op::kLinear) continue;
      const Weight& weight = a.nodes()[i].as<LinearAttributes>().weight;
      expect_same_values(b.nodes()[i].as<LinearAttributes>().weight, weight, a.nodes()[i].name);
      packed += std::holds_alternative<GroupCodes>(weight);
    }
    EXPECT_EQ(packed, 8) << "o, gate, up and down of two blocks";
  }
}

TEST(ExportedCheckpoint, HoldsOneScalePerTensor) {
  const ScratchFolder folder;
  for (const WeightType type : {WeightType::kInt8, WeightType::kUint8}) {
    const Scheme scheme{type, kWholeTensor, DType::kF16};
    const fs::path file = folder / std::string(to_string(type));
    quantize(demo_dir(), file, recipe_of(scheme), kQuark);
    quantize_quickly(demo_dir(), folder / "p", recipe_of(scheme));
    ThreadPool pool(1);
    const Graph graph = Package::open(folder / "p", pool).graph(Phase::kDecode);
    const Checkpoint checkpoint = Checkpoint::open(file);
    int compared = 0;
    for (const Node& node : graph.nodes()) {
      if (node.op != Op::kLinear || node.name == "lm_head") continue;
      const auto& codes = std::get<GroupCodes>(node.as<LinearAttributes>().weight);
      EXPECT_TRUE(has_one_scale(codes)) << node.name;
      EXPECT_TRUE(checkpoint.load(node.name + ".weight_scale").shape().empty());
      EXPECT_EQ(dequantize_rows(checkpoint.linear(node.name, codes.n, codes.k), 0, codes.n),
                dequantize_rows(codes, 0, codes.n))
          << node.name;
      ++compared;
    }
    EXPECT_EQ(compared, 42);
    EXPECT_NE(error_of([&] {
                quantize(demo_dir(), folder / "no", recipe_of(scheme), kAwq);
              }).find("AWQ holds asymmetric 4-bit codes in groups only"),
              std::string::npos);
  }
  write_family(folder / "fused", "phi3_longrope");
  EXPECT_NE(error_of([&] {
              quantize(folder / "fused", folder / "no",
                       recipe_of({WeightType::kInt8, kWholeTensor, DType::kF16}), kQuark);
            }).find("qkv_proj: is several Linears"),
            std::string::npos);
  Recipe searched = recipe_of({WeightType::kInt8, kWholeTensor, DType::kF16});
  for (const char* pass : {"awq", "seqmse", "mse_clip", "gptq"}) {
    searched.passes = {{pass}};
    EXPECT_NE(error_of([&] { quantize(demo_dir(), folder / "no", searched, kQuark); })
                  .find("searches group by group, but model.layers.0.self_attn.q_proj has one "
                        "scale for all of its rows"),
              std::string::npos)
        << pass;
  }
  EXPECT_FALSE(fs::exists(folder / "no"));
}

TEST(ExportedCheckpoint, RefusesTwoSchemesInOneModule) {
  const ScratchFolder folder;
  write_family(folder / "c", "chatglm");
  const auto refused = [&](const Rule& rule) {
    Recipe recipe = recipe_of(uint4(4, DType::kF16));
    recipe.rules.push_back(rule);
    const std::string message =
        error_of([&] { quantize(folder / "c", folder / "out", recipe, kQuark); });
    EXPECT_FALSE(fs::exists(folder / "out"));
    return message;
  };
  EXPECT_EQ(refused(exclude("*.v_proj")),
            "[export] model.layers.0.self_attn.q_proj and model.layers.0.self_attn.v_proj: are one "
            "module here, transformer.encoder.layers.0.self_attention.query_key_value: expected "
            "one scheme for both");
  for (const Scheme& scheme :
       {uint4(8, DType::kF16), uint4(4, DType::kF32), Scheme{WeightType::kInt4, 4, DType::kF16}})
    EXPECT_NE(refused({.match = "*.layers.1.mlp.up_proj", .decode = scheme})
                  .find("layers.1.mlp.dense_h_to_4h: expected one scheme"),
              std::string::npos);
}

TEST(ExportedCheckpoint, RefusesBeforeAnyWork) {
  const ScratchFolder folder;
  const auto refused = [&](const Recipe& recipe, const PackedStyle& style) {
    const std::string message =
        error_of([&] { quantize(demo_dir(), folder / "out", recipe, style); });
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
