// Packages of checkpoints that are quantized already: codes of AutoAWQ, GPTQ, AMD Quark and GGUF
// reach the decode graph bit by bit, and the int8 of prefill is made from the values behind them.
#include "quantize/kept_codes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf/gguf_export.h"
#include "checkpoint/safetensors.h"
#include "models/model.h"
#include "package/package.h"
#include "quantize/linear_weights.h"
#include "quantize/quantize_model.h"
#include "quantize/rtn.h"
#include "quantize/tiny_checkpoint.h"
#include "support.h"

namespace tandem {
namespace {

using testing::demo_dir;
using testing::error_of;
using testing::quantize_quickly;
using testing::quick_recipe;
using testing::ScratchFolder;
using testing::shared_data;

using Tensors = std::map<std::string, Tensor>;

bool same(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         std::ranges::equal(a.bytes(), b.bytes());
}

bool same(const Weight& a, const Weight& b) {
  return describe(a) == describe(b) &&
         std::ranges::equal(parts_of(a), parts_of(b),
                            [](const Tensor& x, const Tensor& y) { return same(x, y); });
}

// The weights of a graph's Linears by module.
std::map<std::string, Weight> weights_of(const Graph& graph) {
  std::map<std::string, Weight> weights;
  for (const Node& node : graph.nodes())
    if (node.op == Op::kLinear) weights[node.name] = node.as<LinearAttributes>().weight;
  return weights;
}

std::map<std::string, Weight> weights_of(const fs::path& package, Phase phase) {
  ThreadPool pool(1);
  return weights_of(Package::open(package, pool).graph(phase));
}

std::map<std::string, Weight> weights_in(const fs::path& checkpoint) {
  const Checkpoint open = Checkpoint::open(checkpoint);
  return weights_of(build_graph(open.config_object(), CheckpointWeights(open)));
}

void export_to(const fs::path& checkpoint, const fs::path& target, const Recipe& recipe,
               PackedStyle::Layout layout) {
  ThreadPool pool(2);
  quantize_model({.checkpoint = checkpoint,
                  .calibration = {},
                  .target = target,
                  .export_style = PackedStyle{layout},
                  .recipe = recipe},
                 pool, silent());
}

// The demo checkpoint with the modules of one of Quark's exports in place of its own.
void write_with_modules_of_quark(const std::string& name, const fs::path& folder) {
  const fs::path source = shared_data() / "quark" / name;
  fs::create_directories(folder);
  for (const char* file : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"})
    fs::copy_file(demo_dir() / file, folder / file);
  fs::copy_file(source / "config.json", folder / "config.json");
  const auto demo = SafetensorsFile::open(demo_dir() / "model.safetensors");
  const auto packed = SafetensorsFile::open(source / "model.safetensors");
  Tensors tensors = demo.tensors;
  for (const auto& [tensor, value] : packed.tensors) tensors.insert_or_assign(tensor, value);
  write_safetensors(folder / "model.safetensors", tensors);
}

// That export of int8 has the scales of all modules, but few codes. Missing ones are those of the demo's weights at these scales.
void add_int8_codes(const fs::path& folder) {
  const auto file = SafetensorsFile::open(folder / "model.safetensors");
  Tensors tensors = file.tensors;
  for (const auto& [name, scale] : file.tensors) {
    const std::string weight = name.substr(0, name.rfind('_'));
    if (!name.ends_with(".weight_scale")) continue;
    const Tensor& real = file.tensors.at(weight);
    if (!is_float(real.dtype())) continue;
    std::byte* codes = nullptr;
    Tensor int8 = Tensor::allocate(DType::kI8, real.shape(), &codes);
    for (const float value : real.to_floats())
      *codes++ = static_cast<std::byte>(
          std::clamp(std::lround(value / scale.to_floats()[0]), -127L, 127L));
    tensors.insert_or_assign(weight, int8);
  }
  write_safetensors(folder / "with_codes.safetensors", tensors);
  fs::rename(folder / "with_codes.safetensors", folder / "model.safetensors");
}

// Every kept module's codes in decode, and int8 of the values behind them in prefill.
void expect_kept(const fs::path& checkpoint, const fs::path& package, int modules) {
  ThreadPool pool(2);
  const auto stored = weights_in(checkpoint);
  const auto decode = weights_of(package, Phase::kDecode);
  const auto prefill = weights_of(package, Phase::kPrefill);
  int kept = 0;
  for (const auto& [module, weight] : stored) {
    if (std::holds_alternative<FloatWeight>(weight)) continue;
    ++kept;
    EXPECT_TRUE(same(decode.at(module), weight)) << module;
    if (module == "lm_head") {
      EXPECT_TRUE(same(prefill.at(module), weight));
      continue;
    }
    const ChannelCodes rows = quantize_channel_codes(*rows_of(weight), module, pool);
    EXPECT_TRUE(same(prefill.at(module), Weight(rows))) << module;
  }
  EXPECT_EQ(kept, modules);
}

// The scales of a package are the numbers that are in Quark's file, in their type.
void expect_scales_of_quark(const std::string& name, const std::map<std::string, Weight>& weights) {
  const auto file = SafetensorsFile::open(shared_data() / "quark" / name / "model.safetensors");
  for (const auto& [tensor, stored] : file.tensors) {
    const auto found = weights.find(tensor.substr(0, tensor.rfind('.')));
    if (!tensor.ends_with("scale") || found == weights.end()) continue;
    const auto& codes = std::get<GroupCodes>(found->second);
    EXPECT_EQ(codes.scales.dtype(), stored.dtype()) << tensor;
    const std::vector<float> scales = codes.scales.to_floats(), expected = stored.to_floats();
    ASSERT_EQ(scales.size(), expected.size()) << tensor;
    for (std::int64_t i = 0; i < codes.scales.elements(); ++i)
      ASSERT_EQ(
          scales[static_cast<std::size_t>(i)],
          expected[static_cast<std::size_t>(i % codes.groups() * codes.n + i / codes.groups())]);
  }
}

// By way of a checkpoint in the words of either tool, a package has the decode weights that it has
// when it is made directly.
TEST(KeptCodes, AreThoseOfThePackageMadeDirectly) {
  const ScratchFolder folder;
  const Recipe recipe = quick_recipe(128);
  quantize_quickly(demo_dir(), folder / "direct", recipe);
  const auto direct = weights_of(folder / "direct", Phase::kDecode);
  for (const PackedStyle::Layout layout :
       {PackedStyle::Layout::kAwq, PackedStyle::Layout::kQuark}) {
    const std::string name(to_string(layout));
    export_to(demo_dir(), folder / name, default_recipe(128, 0), layout);
    const QuantizeReport report =
        quantize_quickly(folder / name, folder / (name + ".package"), recipe);
    EXPECT_EQ(report.linears, 43);
    EXPECT_EQ(report.kept, 42);
    const auto decode = weights_of(folder / (name + ".package"), Phase::kDecode);
    EXPECT_EQ(decode.size(), 43U);
    for (const auto& [module, weight] : direct)
      EXPECT_TRUE(same(decode.at(module), weight)) << module;
    expect_kept(folder / name, folder / (name + ".package"), 42);
  }
}

// Whatever the recipe's group size is; and a head that has codes keeps them, too.
TEST(KeptCodes, GoBeforeTheRecipe) {
  const ScratchFolder folder;
  export_to(demo_dir(), folder / "c", default_recipe(64, 128), PackedStyle::Layout::kQuark);
  quantize_quickly(folder / "c", folder / "p", quick_recipe(128));
  expect_kept(folder / "c", folder / "p", 43);
  EXPECT_EQ(describe(weights_of(folder / "p", Phase::kDecode).at("lm_head")),
            "int4 g128 [4096, 256]");
}

TEST(KeptCodes, OfQuarksOwnExports) {
  TANDEM_REQUIRE_SHARED("quark");
  const ScratchFolder folder;
  for (const auto& [name, modules] : {std::pair{"awq_g128_float16_awqpack", 14},
                                      {"rtn_g128_float16_head", 1},
                                      {"rtn_g128_float16_order", 1},
                                      {"rtn_g64_float16", 5},
                                      {"rtn_g32_bfloat16", 5},
                                      {"rtn_g128_float32", 5},
                                      {"awq_g128_bfloat16", 4},
                                      {"awq_g32_float32", 11},
                                      {"rtn_int4_g128_float16", 1},
                                      {"rtn_per_channel_float16", 1}}) {
    const fs::path checkpoint = folder / name;
    write_with_modules_of_quark(name, checkpoint);
    quantize_quickly(checkpoint, folder / "p");
    expect_kept(checkpoint, folder / "p", modules);
    expect_scales_of_quark(name, weights_of(folder / "p", Phase::kDecode));
  }
}

// Quark's W8A8: codes and input scales in both phases.
TEST(KeptCodes, OfInt8WithItsInputScales) {
  TANDEM_REQUIRE_SHARED("quark/int8_float32");
  const ScratchFolder folder;
  write_with_modules_of_quark("int8_float32", folder / "c");
  add_int8_codes(folder / "c");
  const QuantizeReport report = quantize_quickly(folder / "c", folder / "p");
  EXPECT_EQ(report.kept, 42);
  const auto stored = weights_in(folder / "c");
  for (const Phase phase : {Phase::kDecode, Phase::kPrefill}) {
    const auto weights = weights_of(folder / "p", phase);
    for (const auto& [module, weight] : stored)
      if (module != "lm_head") {
        EXPECT_TRUE(same(weights.at(module), weight)) << module;
      }
  }
  // An explicit wish for other codes.
  Recipe recipe = quick_recipe();
  recipe.rules.push_back({.match = "*.up_proj", .decode = Scheme{WeightType::kUint4, 128}});
  EXPECT_NE(error_of([&] {
              quantize_quickly(folder / "c", folder / "q", recipe);
            }).find("layers.0.mlp.up_proj: is int8 per tensor [768, 256] in the checkpoint"),
            std::string::npos);
}

TEST(KeptCodes, OfGptq) {
  TANDEM_REQUIRE_SHARED("reports/gptq_sym_zeros_contradict");
  const ScratchFolder folder;
  const fs::path checkpoint = shared_data() / "reports/gptq_sym_zeros_contradict";
  quantize_quickly(checkpoint, folder / "p");
  expect_kept(checkpoint, folder / "p", 7);
}

// Q4_0 is kept; the head, Q8_0 there, comes as float rows, of which the recipe makes its int4.
TEST(KeptCodes, OfGguf) {
  const ScratchFolder folder;
  const fs::path checkpoint = folder / "demo.gguf";
  write_gguf(checkpoint, Checkpoint::open(demo_dir()), GgmlType::kQ4_0);
  const QuantizeReport report = quantize_quickly(checkpoint, folder / "p");
  EXPECT_EQ(report.kept, 42);
  expect_kept(checkpoint, folder / "p", 42);
  const auto decode = weights_of(folder / "p", Phase::kDecode);
  EXPECT_EQ(describe(decode.at("model.layers.0.mlp.up_proj")), "int4 g32 [768, 256]");
  EXPECT_EQ(describe(decode.at("lm_head")), "int4 g32 [4096, 256]");
}

// The tiny model's down projections in GPTQ's words, with a column order or without.
void write_gptq(const fs::path& source, const fs::path& folder, bool in_order) {
  fs::copy(source, folder);
  const auto file = SafetensorsFile::open(source / "model.safetensors");
  Tensors tensors = file.tensors;
  for (const char* layer : {"model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"}) {
    const std::string module = layer;
    tensors.erase(module + ".weight");
    const auto add = [&](const char* part, Shape shape, const auto& value) {
      std::byte* data = nullptr;
      Tensor tensor = Tensor::allocate(DType::kI32, std::move(shape), &data);
      auto* words = reinterpret_cast<std::uint32_t*>(data);
      for (std::int64_t i = 0; i < tensor.elements(); ++i) words[i] = value(i);
      tensors[module + part] = tensor;
    };
    // [64, 128] in groups of 32: eight codes in a word along k, zero points along n.
    add(".qweight", {16, 64}, [](std::int64_t i) { return std::uint32_t(i) * 2654435761U; });
    add(".qzeros", {4, 8}, [](std::int64_t i) { return std::uint32_t(i) * 2246822519U; });
    add(".g_idx", {128}, [&](std::int64_t i) { return std::uint32_t(in_order ? i / 32 : i % 4); });
    tensors[module + ".scales"] =
        Tensor::from_floats(std::vector<float>(4 * 64, 0.01F), {4, 64}).to_f16();
  }
  write_safetensors(folder / "packed.safetensors", tensors);
  fs::rename(folder / "packed.safetensors", folder / "model.safetensors");
  Json config = read_json_file(source / "config.json");
  config["quantization_config"] = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 32}};
  write_text_file(folder / "config.json", config.dump());
}

class Warnings : public Observer {
 public:
  void warn(std::string_view message) override { text += std::string(message) + "\n"; }
  std::string text;
};

// Columns in another order have no form as codes: said, and rounded a second time.
TEST(KeptCodes, OfGptqUnlessColumnsHaveAnOrder) {
  const ScratchFolder folder;
  testing::write_tiny_checkpoint(folder / "float");
  for (const bool in_order : {true, false}) {
    const std::string name = in_order ? "plain" : "ordered";
    write_gptq(folder / "float", folder / name, in_order);
    Warnings warnings;
    ThreadPool pool(2);
    const QuantizeReport report = quantize_model({.checkpoint = folder / name,
                                                  .calibration = demo_dir() / "calibration.txt",
                                                  .target = folder / (name + ".package"),
                                                  .recipe = quick_recipe(64)},
                                                 pool, warnings);
    EXPECT_EQ(report.kept, in_order ? 2 : 0);
    expect_kept(folder / name, folder / (name + ".package"), in_order ? 2 : 0);
    EXPECT_EQ(warnings.text.find("2 of its modules are quantized in a form that no package has") !=
                  std::string::npos,
              !in_order)
        << warnings.text;
  }
}

class KeptCodesRules : public ::testing::Test {
 protected:
  KeptCodesRules() {
    testing::write_tiny_checkpoint(folder_ / "float");
    export_to(folder_ / "float", folder_ / "c", default_recipe(32, 0), PackedStyle::Layout::kAwq);
  }
  std::string refusal(const Recipe& recipe) {
    const std::string text =
        error_of([&] { quantize_quickly(folder_ / "c", folder_ / "p", recipe); });
    EXPECT_FALSE(fs::exists(folder_ / "p"));
    return text;
  }

  const ScratchFolder folder_;
  const std::string up_ = "model.layers.0.mlp.up_proj";
};

// Excluded modules keep their codes in both phases.
TEST_F(KeptCodesRules, AnExclusionKeepsThem) {
  Recipe recipe = quick_recipe();
  recipe.rules.push_back(exclude("*.up_proj"));
  quantize_quickly(folder_ / "c", folder_ / "p", recipe);
  const auto prefill = weights_of(folder_ / "p", Phase::kPrefill);
  EXPECT_EQ(describe(prefill.at(up_)), "int4 g32 [128, 64]");
  EXPECT_EQ(describe(prefill.at("model.layers.0.mlp.down_proj")), "int8 [64, 128]");
}

TEST_F(KeptCodesRules, ARuleForOtherCodesIsRefused) {
  Recipe recipe = quick_recipe();
  recipe.rules.push_back({.match = "*.up_proj", .decode = Scheme{WeightType::kUint4, 64}});
  EXPECT_EQ(refusal(recipe),
            "[quantize] model.layers.0.mlp.up_proj: is int4 g32 [128, 64] in the checkpoint "
            "already, of which the recipe's uint4 in groups of 64 for decode can't be made without "
            "loss: expected a rule that keeps the codes (\"keep_codes\": true, or --exclude "
            "\"model.layers.0.mlp.up_proj\")");
  recipe.rules.back() = {.match = "*.up_proj", .prefill = Scheme{WeightType::kInt8, 32}};
  EXPECT_NE(refusal(recipe).find("up_proj: is int4 g32 [128, 64]"), std::string::npos);
  // What is there may be asked for, or left.
  recipe.rules.back() = {.match = "*.up_proj", .decode = Scheme{WeightType::kUint4, 32}};
  quantize_quickly(folder_ / "c", folder_ / "p", recipe);
  recipe.rules.back() = {
      .match = "*.up_proj", .decode = Scheme{WeightType::kUint4, 64}, .keep_codes = true};
  quantize_quickly(folder_ / "c", folder_ / "p", recipe);
  expect_kept(folder_ / "c", folder_ / "p", 14);
}

TEST_F(KeptCodesRules, PassesThatFindNoFloatWeightsAreRefused) {
  Recipe recipe = quick_recipe();
  for (const char* pass : {"awq", "smoothquant", "seqmse", "gptq"}) {
    recipe.passes = {{pass}};
    EXPECT_NE(refusal(recipe).find(fmt::format(
                  "[quantize] {}: changes float weights, but model.layers.0.self_attn.q_proj is "
                  "int4 g32 [64, 64] in the checkpoint already",
                  pass)),
              std::string::npos);
  }
  // Those that find none change nothing.
  recipe.passes = {{"fold_norms"}, {"untie_head"}};
  quantize_quickly(folder_ / "c", folder_ / "p", recipe);
  expect_kept(folder_ / "c", folder_ / "p", 14);
}

// From one tool's words to the other's and back.
TEST_F(KeptCodesRules, CodesMoveBetweenTheWordsOfTools) {
  const Recipe recipe = default_recipe(128, 0);
  export_to(folder_ / "c", folder_ / "quark", recipe, PackedStyle::Layout::kQuark);
  export_to(folder_ / "quark", folder_ / "awq", recipe, PackedStyle::Layout::kAwq);
  EXPECT_TRUE(std::ranges::equal(testing::read_bytes(folder_ / "c/model.safetensors"),
                                 testing::read_bytes(folder_ / "awq/model.safetensors")));
  EXPECT_EQ(read_json_file(folder_ / "c/config.json"), read_json_file(folder_ / "awq/config.json"));
}

}  // namespace
}  // namespace tandem
