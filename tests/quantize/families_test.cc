// Packages of families whose checkpoints use other names: they are stored under the names of the
// graph.
#include <gtest/gtest.h>

#include <string>

#include "checkpoint/gguf/gguf_export.h"
#include "checkpoint/safetensors.h"
#include "models/model.h"
#include "quantize/tiny_checkpoint.h"
#include "text/chat_template.h"
#include "text/tokenizer/base64.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::ScratchFolder;
using testing::write_bytes;

// A tiny checkpoint of a family, with a tokenizer of letters that fits its vocabulary of 67.
void write_family(const fs::path& folder, const std::string& family) {
  fs::copy(testing::fixture("models/fixtures") / family, folder);
  Json vocabulary = Json::object();
  for (char letter = 'a'; letter <= 'z'; ++letter)
    vocabulary[std::string(1, letter)] = 10 + letter - 'a';
  const Json tokenizer = {
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}}};
  write_bytes(folder / "tokenizer.json", tokenizer.dump());
  std::string text;
  for (int i = 0; i < 256; ++i) text += static_cast<char>('a' + i * i % 26);
  write_bytes(folder / "calibration.txt", text);
}

// All modules stay as they are.
Recipe float_recipe() {
  Recipe recipe = default_recipe(32);
  recipe.rules = {exclude("*")};
  return recipe;
}

void build(const fs::path& checkpoint, const fs::path& target, Recipe recipe) {
  recipe.calibration.samples = 2;
  recipe.calibration.window = 32;
  ThreadPool pool(1);
  quantize_model({.checkpoint = checkpoint,
                  .calibration = checkpoint / "calibration.txt",
                  .target = target,
                  .recipe = std::move(recipe)},
                 pool, silent());
}

class PackagedFamily : public ::testing::TestWithParam<const char*> {};

// Left in float throughout, a package must hold the same numbers as its checkpoint.
TEST_P(PackagedFamily, HoldsTheGraphOfItsCheckpoint) {
  const ScratchFolder folder;
  write_family(folder / "c", GetParam());
  build(folder / "c", folder / "p", float_recipe());

  const Checkpoint checkpoint = Checkpoint::open(folder / "c");
  const Graph expected = build_graph(checkpoint.config_object(), CheckpointWeights(checkpoint));
  ThreadPool pool(1);
  const Graph got = Package::open(folder / "p", pool).graph(Phase::kDecode);
  ASSERT_EQ(dump(got), dump(expected));
  for (std::size_t i = 0; i < got.nodes().size(); ++i) {
    const Node& node = got.nodes()[i];
    const Node& other = expected.nodes()[i];
    if (node.op == Op::kLinear) {
      const auto& a = node.as<LinearAttributes>();
      const auto& b = other.as<LinearAttributes>();
      const std::int64_t n = output_channels(a.weight);
      EXPECT_EQ(dequantize_rows(a.weight, 0, n), dequantize_rows(b.weight, 0, n)) << node.name;
      ASSERT_EQ(a.bias.empty(), b.bias.empty()) << node.name;
      if (!a.bias.empty()) {
        EXPECT_EQ(a.bias.to_floats(), b.bias.to_floats()) << node.name;
      }
    } else if (node.op == Op::kRmsNorm) {
      EXPECT_EQ(node.as<RmsNormAttributes>().weight.to_floats(),
                other.as<RmsNormAttributes>().weight.to_floats())
          << node.name;
    }
  }
  for (const auto& [name, tensor] : SafetensorsFile::open(folder / "p/decode.safetensors").tensors)
    EXPECT_TRUE(name.starts_with("model.") || name == "lm_head.weight") << name;
}

// What the awq pass finds in a graph has no names.
TEST_P(PackagedFamily, IsQuantizedByAwq) {
  const ScratchFolder folder;
  write_family(folder / "c", GetParam());
  Recipe recipe;
  recipe.passes = {{"awq"}};
  recipe.rules = {{.match = "*",
                   .decode = Scheme{.weights = WeightType::kUint4, .group = 4},
                   .prefill_as_decode = true}};
  build(folder / "c", folder / "p", recipe);
  ThreadPool pool(1);
  const Package package = Package::open(folder / "p", pool);
  EXPECT_EQ(package.manifest()["recipe"]["passes"], Json::array({"awq"}));
  EXPECT_EQ(package.manifest()["recipe"]["calibration"]["windows"], 2);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, PackagedFamily,
                         ::testing::Values("chatglm", "gemma2", "llama_dynamic", "llama_yarn",
                                           "mistral_window", "phi3_longrope", "qwen3", "smollm3"));

TEST(PackagedFamilies, QuantizeWhatWasFused) {
  const ScratchFolder folder;
  for (const char* family : {"chatglm", "phi3_longrope"}) {
    write_family(folder / family, family);
    Recipe recipe = default_recipe(32);
    // Its 60 columns are no whole groups.
    recipe.rules.push_back(exclude("*.down_proj"));
    build(folder / family, folder / "p", recipe);
    ThreadPool pool(1);
    const Package package = Package::open(folder / "p", pool);
    const std::string int4 = dump(package.graph(Phase::kDecode));
    const std::string int8 = dump(package.graph(Phase::kPrefill));
    for (const char* module : {"self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj"}) {
      const std::string name = std::string(" model.layers.1.") + module;
      EXPECT_NE(int4.find(name + " int4 g32 ["), std::string::npos) << int4;
      EXPECT_NE(int8.find(name + " int8 ["), std::string::npos) << int8;
    }
  }
}

// What other tools read has the family's own modules, whose rows are the graph's.
TEST(PackagedFamilies, AreExportedAsTheyWereFused) {
  const ScratchFolder folder;
  Recipe recipe;
  recipe.rules = {{.match = "*",
                   .decode = Scheme{WeightType::kUint4, 32, DType::kF32},
                   .prefill_as_decode = true},
                  exclude("*.down_proj"),
                  exclude("lm_head")};
  ThreadPool pool(1);
  for (const auto& [family, fused] :
       {std::pair{"chatglm", "transformer.encoder.layers.1.self_attention.query_key_value"},
        {"phi3_longrope", "model.layers.1.self_attn.qkv_proj"}}) {
    write_family(folder / family, family);
    const Checkpoint source = Checkpoint::open(folder / family);
    build(folder / family, folder / "p", recipe);
    const Graph expected = Package::open(folder / "p", pool).graph(Phase::kDecode);
    for (const PackedStyle::Layout layout :
         {PackedStyle::Layout::kAwq, PackedStyle::Layout::kGptq, PackedStyle::Layout::kQuark}) {
      SCOPED_TRACE(fmt::format("{} {}", family, to_string(layout)));
      const fs::path target = folder / (std::string(family) + std::string(to_string(layout)));
      quantize_model({.checkpoint = folder / family,
                      .calibration = {},
                      .target = target,
                      .export_style = PackedStyle{layout},
                      .recipe = recipe},
                     pool, silent());
      const Checkpoint exported = Checkpoint::open(target);
      // Every tensor has the name of one in the source, but for what packing appends.
      for (const auto& [name, shape] : exported.contents()) EXPECT_TRUE(source.has(name)) << name;
      EXPECT_TRUE(exported.has(std::string(fused) + ".weight"));
      const Graph got = build_graph(exported.config_object(), CheckpointWeights(exported));
      int packed = 0;
      for (const Node& node : got.nodes()) {
        if (node.op != Op::kLinear) continue;
        const auto& a = node.as<LinearAttributes>();
        const auto& b =
            std::ranges::find(expected.nodes(), node.name, &Node::name)->as<LinearAttributes>();
        const std::int64_t n = output_channels(a.weight);
        EXPECT_EQ(dequantize_rows(a.weight, 0, n), dequantize_rows(b.weight, 0, n)) << node.name;
        EXPECT_EQ(std::holds_alternative<GroupCodes>(a.weight),
                  std::holds_alternative<GroupCodes>(b.weight))
            << node.name;
        packed += std::holds_alternative<GroupCodes>(a.weight);
        ASSERT_EQ(a.bias.empty(), b.bias.empty()) << node.name;
        if (!a.bias.empty()) {
          EXPECT_EQ(a.bias.to_floats(), b.bias.to_floats()) << node.name;
        }
      }
      EXPECT_EQ(packed, 12) << "six of each block";
    }
  }
}

// A GGUF holds everything in one file; a package of it has the files that others expect.
TEST(PackagedFamilies, ComeFromAGgufToo) {
  const ScratchFolder folder;
  write_gguf(folder / "demo.gguf", Checkpoint::open(testing::demo_dir()), GgmlType::kF16);
  ThreadPool pool(1);
  testing::quantize_quickly(folder / "demo.gguf", folder / "p");
  const Package package = Package::open(folder / "p", pool);
  EXPECT_EQ(package.graph(Phase::kDecode).layers(), 6);
  const std::string text = "Once upon a time <|im_end|>";
  EXPECT_EQ(Tokenizer::open(folder / "p").encode(text),
            Tokenizer::open(testing::demo_dir()).encode(text));
  const OrderedJson chat = {{"messages", {{{"role", "user"}, {"content", "Hello"}}}},
                            {"add_generation_prompt", true}};
  EXPECT_EQ(ChatTemplate::open(folder / "p").render(chat),
            ChatTemplate::open(testing::demo_dir()).render(chat));
}

TEST(PackagedFamilies, KeepATokenizerOfAnyName) {
  const ScratchFolder folder;
  write_family(folder / "c", "qwen3");
  fs::remove(folder / "c/tokenizer.json");
  // 256 bytes in the order of their ids; those beyond the model's 67 don't occur in the text.
  std::string lines;
  for (int byte = 0; byte < 256; ++byte) {
    const int id = byte >= 'a' && byte <= 'z' ? byte - 'a' : byte < 'a' ? byte + 26 : byte;
    const std::string bytes(1, static_cast<char>(byte));
    lines += encode_base64(bytes) + " " + std::to_string(id) + "\n";
  }
  write_bytes(folder / "c/tiny.tiktoken", lines);
  build(folder / "c", folder / "p", float_recipe());
  EXPECT_EQ(Tokenizer::open(folder / "p").encode("abc"), (std::vector<TokenId>{0, 1, 2}));
}

}  // namespace
}  // namespace tandem
