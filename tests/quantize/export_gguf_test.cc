// Quantized models as GGUF files: codes that are moved, and floats that are rounded as tandem convert
// rounds them, whose bytes are llama.cpp's.
#include "quantize/export_gguf.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf/gguf.h"
#include "checkpoint/gguf/gguf_export.h"
#include "checkpoint/gguf/gguf_names.h"
#include "models/model.h"
#include "package/package.h"
#include "quantize/quantize_model.h"
#include "quantize/tiny_checkpoint.h"
#include "support.h"

namespace tandem::testing {
namespace {

Recipe recipe_of(const Scheme& scheme) {
  Recipe recipe;
  recipe.rules = {{.match = "*", .decode = scheme}, exclude("lm_head")};
  return recipe;
}

void quantize(const fs::path& checkpoint, const fs::path& target, const Recipe& recipe,
              const GgufExport& form = {}) {
  ThreadPool pool(2);
  quantize_model({.checkpoint = checkpoint,
                  .calibration = demo_dir() / "calibration.txt",
                  .target = target,
                  .gguf = form,
                  .recipe = recipe},
                 pool, silent());
}

// A model whose q and k have their rows in another order in GGUF.
void write_llama(const fs::path& folder) {
  write_tiny_checkpoint(folder);
  Json config = read_json_file(folder / "config.json");
  config["model_type"] = "llama";
  config["architectures"] = {"LlamaForCausalLM"};
  write_text_file(folder / "config.json", config.dump());
}

// One of the families' tiny models, with a vocabulary.
void write_family(const fs::path& folder, const std::string& name) {
  fs::copy(fixture("models/fixtures/" + name), folder);
  const Json config = read_json_file(folder / "config.json");
  Json vocabulary = Json::object();
  const char* key = config.contains("padded_vocab_size") ? "padded_vocab_size" : "vocab_size";
  for (int i = 0; i < config[key].get<int>(); ++i) vocabulary[fmt::format("t{}", i)] = i;
  const Json tokenizer = {
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"use_regex", true}}}};
  write_text_file(folder / "tokenizer.json", tokenizer.dump());
}

struct Case {
  Scheme scheme;
  const char* type;
  std::uint32_t file_type;
};

class MovedCodes : public ::testing::TestWithParam<Case> {};

// Against the package of the same recipe: every value, in the order of transformers' rows.
TEST_P(MovedCodes, AreThoseOfThePackage) {
  const auto& [scheme, type, number] = GetParam();
  const ScratchFolder folder;
  write_llama(folder / "c");
  const Recipe recipe = recipe_of(scheme);
  quantize(folder / "c", folder / "x.gguf", recipe);
  quantize_quickly(folder / "c", folder / "p", recipe);
  ThreadPool pool(1);
  const Graph graph = Package::open(folder / "p", pool).graph(Phase::kDecode);
  const Checkpoint made = Checkpoint::open(folder / "x.gguf");
  const GgufFile file = GgufFile::open(folder / "x.gguf");
  EXPECT_EQ(file.metadata.at("general.file_type"), number);
  EXPECT_FALSE(made.has("lm_head.weight"));
  int compared = 0;
  for (const Node& node : graph.nodes()) {
    if (node.op != Op::kLinear || node.name == "lm_head") continue;
    const auto& codes = std::get<GroupCodes>(node.as<LinearAttributes>().weight);
    const std::vector<float> want = dequantize_rows(codes, 0, codes.n);
    EXPECT_EQ(made.tensors().at(node.name + ".weight").type, type);
    const Weight loaded = made.linear(node.name, codes.n, codes.k);
    const std::vector<float> got = dequantize_rows(loaded, 0, codes.n);
    if (std::string_view(type) == "Q4_0") {
      EXPECT_EQ(got, want) << node.name;
      const auto& own = std::get<GroupCodes>(loaded);
      // Without their sign.
      for (std::size_t i = 0; i < own.codes.bytes().size(); ++i)
        ASSERT_EQ(own.codes.bytes()[i] ^ std::byte{0x88}, codes.codes.bytes()[i]) << node.name;
    }
    // Exactly before they are rounded to F16 in loading; a minimum is rounded once more.
    for (std::size_t i = 0; i < want.size(); ++i)
      ASSERT_NEAR(got[i], want[i], std::string_view(type) == "Q4_1" ? 4e-4 : 1e-4) << node.name;
    if (node.name.ends_with("down_proj")) {
      const auto& tensor =
          file.tensors.at(*name_to_gguf(*find_gguf_architecture("llama"), node.name + ".weight"));
      std::vector<float> exact(want.size());
      dequantize_blocks(tensor.type, tensor.bytes, exact);
      if (std::string_view(type) != "Q4_1") {
        EXPECT_EQ(exact, want) << node.name;
      }
    }
    ++compared;
  }
  EXPECT_EQ(compared, 14);
  // What stays float is as before, but for F16.
  const Checkpoint source = Checkpoint::open(folder / "c");
  const std::string norm = "model.layers.1.input_layernorm.weight";
  EXPECT_EQ(made.tensor(norm, {64}).to_floats(), source.tensor(norm, {64}).to_floats());
}

INSTANTIATE_TEST_SUITE_P(Schemes, MovedCodes,
                         ::testing::Values(Case{{WeightType::kInt4, 32}, "Q4_0", 2},
                                           Case{{WeightType::kInt4, 64}, "Q4_0", 2},
                                           Case{{WeightType::kInt4, 0}, "Q4_0", 2},
                                           Case{{WeightType::kInt8, 32}, "Q8_0", 7},
                                           Case{{WeightType::kInt8, 64}, "Q8_0", 7},
                                           Case{{WeightType::kUint4, 32}, "Q4_1", 3},
                                           Case{{WeightType::kUint4, 64}, "Q4_1", 3}),
                         [](const auto& each) {
                           return fmt::format("{}g{}", to_string(each.param.scheme.weights),
                                              each.param.scheme.group);
                         });

// Without passes, the file has the tensors of tandem convert, byte for byte.
TEST(ExportedGguf, IsRoundedAsConverted) {
  const ScratchFolder folder;
  write_llama(folder / "llama");
  for (const char* name : {"qwen3", "phi3_longrope"}) write_family(folder / name, name);
  const auto expect_same = [&](const fs::path& model, GgmlType type) {
    const Checkpoint checkpoint = Checkpoint::open(model);
    const CheckpointWeights weights(checkpoint);
    build_graph(checkpoint.config_object(), weights);
    write_gguf(folder / "want.gguf", checkpoint, type, silent(), std::nullopt, &weights.read());
    Recipe recipe;
    recipe.rules = {{.match = "*", .decode = Scheme{WeightType::kInt8, 0}}};
    quantize(model, folder / "got.gguf", recipe, {type});
    const GgufFile want = GgufFile::open(folder / "want.gguf");
    const GgufFile got = GgufFile::open(folder / "got.gguf");
    EXPECT_EQ(got.metadata.at("general.file_type"), want.metadata.at("general.file_type"));
    EXPECT_EQ(got.tensors.size(), want.tensors.size());
    for (const auto& [tensor, expected] : want.tensors) {
      ASSERT_TRUE(got.tensors.contains(tensor)) << tensor;
      EXPECT_EQ(to_string(got.tensors.at(tensor).type), to_string(expected.type)) << tensor;
      EXPECT_EQ(got.tensors.at(tensor).shape, expected.shape) << tensor;
      EXPECT_TRUE(std::ranges::equal(got.tensors.at(tensor).bytes, expected.bytes)) << tensor;
    }
  };
  for (const char* name : {"llama", "qwen3", "phi3_longrope"}) {
    SCOPED_TRACE(name);
    expect_same(folder / name, GgmlType::kQ4_0);
  }
  expect_same(demo_dir(), GgmlType::kQ4_K);
}

// A checkpoint's own codes come out as they went in; smoothing reaches what is rounded.
TEST(ExportedGguf, FollowsTheRecipe) {
  const ScratchFolder folder;
  write_llama(folder / "c");
  Recipe recipe = quick_recipe(32);
  recipe.rules = {{.match = "*", .decode = Scheme{WeightType::kInt4, 32}}, exclude("*.o_proj")};
  quantize(folder / "c", folder / "plain.gguf", recipe, {GgmlType::kQ8_0});
  recipe.passes = {{"smoothquant"}};
  quantize(folder / "c", folder / "smooth.gguf", recipe, {GgmlType::kQ8_0});
  const GgufFile plain = GgufFile::open(folder / "plain.gguf");
  const GgufFile smooth = GgufFile::open(folder / "smooth.gguf");
  EXPECT_EQ(to_string(plain.tensors.at("blk.0.attn_output.weight").type), "F16");
  for (const char* name : {"blk.0.attn_norm.weight", "blk.0.attn_q.weight"})
    EXPECT_FALSE(std::ranges::equal(plain.tensors.at(name).bytes, smooth.tensors.at(name).bytes))
        << name;
  // A head with codes is no longer the embedding.
  recipe = recipe_of({WeightType::kInt4, 32});
  recipe.rules.pop_back();
  quantize(folder / "c", folder / "head.gguf", recipe);
  EXPECT_EQ(to_string(GgufFile::open(folder / "head.gguf").tensors.at("output.weight").type),
            "Q4_0");
}

TEST(ExportedGguf, RefusesBeforeTheWork) {
  const ScratchFolder folder;
  write_llama(folder / "c");
  const auto error = [&](const std::string& model, const char* name, const Recipe& recipe,
                         const GgufExport& form = {}) {
    return error_of([&] { quantize(folder / model, folder / name, recipe, form); });
  };
  const auto expect = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  const Recipe int4 = recipe_of({WeightType::kInt4, 32});
  expect(error("c", "x.gguf", recipe_of({WeightType::kUint8, 32})),
         "[export] model.layers.0.self_attn.q_proj: uint8 in groups of 32 has no blocks in GGUF");
  expect(error("c", "x", int4), "expected a name that ends in .gguf");
  Recipe gptq = int4;
  gptq.passes = {{"gptq"}};
  expect(error("c", "x.gguf", gptq, {GgmlType::kQ4_K}), "gptq chooses codes, and Q4_K rounds anew");
  write_text_file(folder / "notes.gguf", "notes");
  expect(error("c", "notes.gguf", int4), "would be replaced, but is no GGUF");
  EXPECT_EQ(read_text_file(folder / "notes.gguf"), "notes");
  write_family(folder / "chatglm", "chatglm");
  expect(error("chatglm", "x.gguf", recipe_of({})), "q and k stand in another order");
  // Softcapping is always on in llama.cpp.
  write_family(folder / "gemma2", "gemma2");
  expect(error("gemma2", "x.gguf", recipe_of({})), "llama.cpp would take");
  quantize(folder / "c", folder / "made.gguf", int4);
  expect(error("made.gguf", "x.gguf", int4), "is a GGUF already");
  // Over a GGUF it is written, and leaves nothing beside it.
  quantize(folder / "c", folder / "made.gguf", int4);
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder.path()))
    names.insert(entry.path().filename().string());
  EXPECT_EQ(names, (std::set<std::string>{"c", "chatglm", "gemma2", "made.gguf", "notes.gguf"}));
}

}  // namespace
}  // namespace tandem::testing
