// What quantize writes: tensors, tandem.json, and what it refuses.
#include "package/build_package.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/hash.h"
#include "base/version.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "package/package_fixture.h"
#include "quantize/rtn.h"

namespace tandem {
namespace {

using testing::build_tiny_package;
using testing::error_of;
using testing::names_in;
using testing::quick_recipe;
using testing::read_manifest;
using testing::ScratchFolder;
using testing::write_bytes;
using testing::write_tiny_checkpoint;

bool same(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         std::ranges::equal(a.bytes(), b.bytes());
}

bool is_linear(const std::string& tensor) { return tensor.ends_with("_proj.weight"); }

std::string module_of(const std::string& tensor) { return tensor.substr(0, tensor.rfind('.')); }

TEST(BuildPackage, TensorsAreThoseOfRoundToNearest) {
  const ScratchFolder folder;
  ThreadPool pool(2);
  Recipe recipe;
  recipe.samples = 2;
  recipe.window = 64;
  const BuildReport report = build_package(
      testing::demo_dir(), testing::demo_dir() / "calibration.txt", folder / "p", recipe, pool);
  EXPECT_EQ(report.linears, 6 * 7 + 1);
  EXPECT_EQ(report.calibration_tokens, 2 * 64);

  const Checkpoint checkpoint = Checkpoint::open(testing::demo_dir());
  const auto decode = SafetensorsFile::open(folder / "p/decode.safetensors").tensors;
  const auto prefill = SafetensorsFile::open(folder / "p/prefill.safetensors").tensors;
  std::size_t linears = 0;
  const auto expect_int4 = [&](const Tensor& weight, const std::string& module, int group) {
    const Int4Groups expected = quantize_uint4_per_group(weight, group, module, pool);
    EXPECT_TRUE(same(decode.at(module + ".codes"), expected.codes)) << module;
    EXPECT_TRUE(same(decode.at(module + ".scales"), expected.scales)) << module;
    EXPECT_TRUE(same(decode.at(module + ".zero_points"), expected.zero_points)) << module;
  };
  for (const auto& [name, stored] : checkpoint.tensors()) {
    const Tensor tensor = checkpoint.load(name);
    if (!is_linear(name)) {
      EXPECT_TRUE(same(decode.at(name), tensor)) << name;
      continue;
    }
    ++linears;
    EXPECT_FALSE(decode.contains(name)) << name;
    expect_int4(tensor, module_of(name), 128);
    const Int8Channels expected = quantize_int8_per_channel(tensor, name, pool);
    EXPECT_TRUE(same(prefill.at(module_of(name) + ".codes"), expected.codes)) << name;
    EXPECT_TRUE(same(prefill.at(module_of(name) + ".scales"), expected.scales)) << name;
  }
  // The tied head has int4 codes of its own beside the float table of the embedding.
  expect_int4(checkpoint.load("model.embed_tokens.weight"), "lm_head", 32);
  EXPECT_EQ(linears, 42u);
  EXPECT_EQ(decode.size(), checkpoint.tensors().size() + 2 * linears + 3);
  EXPECT_EQ(prefill.size(), 2 * linears);
}

TEST(BuildPackage, ReadsBackWhatItWrote) {
  const ScratchFolder folder;
  write_tiny_checkpoint(folder / "c");
  build_tiny_package(folder / "c", folder / "p");
  EXPECT_TRUE(Package::is_package(folder / "p"));
  EXPECT_FALSE(Package::is_package(folder / "c"));
  ThreadPool pool(2);
  const Package package = Package::open(folder / "p", pool);
  EXPECT_EQ(package.chunk(), 32);
  EXPECT_EQ(package.config(), read_json_file(folder / "c/config.json"));
  for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json"})
    EXPECT_EQ(testing::read_bytes(folder / "c" / name), testing::read_bytes(folder / "p" / name));

  const auto prefill = package.weights(Phase::kPrefill);
  const auto decode = package.weights(Phase::kDecode);
  const std::string module = "model.layers.1.mlp.down_proj";
  EXPECT_EQ(describe(prefill->linear(module, 64, 128)), "int8 [64, 128]");
  EXPECT_EQ(describe(decode->linear(module, 64, 128)), "int4 g64 [64, 128]");
  EXPECT_EQ(describe(prefill->linear("lm_head", 4096, 64)), "int4 g32 [4096, 64]");
  const auto int8 = std::get<Int8Channels>(prefill->linear(module, 64, 128));
  EXPECT_EQ(int8.input_scale, package.manifest()["scales"][module]["input"].get<float>());
  EXPECT_GT(int8.input_scale, 0);
  EXPECT_TRUE(decode->has("lm_head.weight"));
  EXPECT_FALSE(decode->has("nothing.weight"));
  EXPECT_NE(error_of([&] { decode->linear(module, 64, 256); }).find(module), std::string::npos);

  // On disk: decode reads its file whole; prefill its own file and what it has no form of.
  const auto bytes = [&](const char* file, const auto& counts) {
    std::int64_t sum = 0;
    for (const auto& [name, tensor] : SafetensorsFile::open(folder / "p" / file).tensors)
      if (counts(name)) sum += static_cast<std::int64_t>(tensor.bytes().size());
    return sum;
  };
  const auto all = [](const std::string&) { return true; };
  const auto shared = [](const std::string& name) {
    return name.starts_with("lm_head.") || name.ends_with(".weight") || name.ends_with(".bias");
  };
  EXPECT_EQ(package.weight_file_bytes(Phase::kDecode), bytes(kDecodeFile, all));
  EXPECT_EQ(package.weight_file_bytes(Phase::kPrefill),
            bytes(kPrefillFile, all) + bytes(kDecodeFile, shared));
}

TEST(BuildPackage, ManifestSaysHowItWasMade) {
  const ScratchFolder folder;
  write_tiny_checkpoint(folder / "c");
  Recipe recipe = quick_recipe();
  recipe.input_scale = "max";
  build_tiny_package(folder / "c", folder / "p", recipe);
  const Json manifest = read_manifest(folder / "p");
  EXPECT_EQ(manifest["format"], 1);
  EXPECT_EQ(manifest["tandem"], build_version());
  EXPECT_EQ(manifest["recipe"]["decode"]["group_size"], 64);
  EXPECT_EQ(manifest["recipe"]["decode"]["lm_head_group_size"], 32);
  EXPECT_EQ(manifest["recipe"]["decode"]["exclude"], Json::array());
  EXPECT_EQ(manifest["recipe"]["prefill"]["chunk"], 32);
  EXPECT_EQ(manifest["recipe"]["prefill"]["target"], "host");
  EXPECT_EQ(manifest["recipe"]["prefill"]["input_scale"], "max");
  EXPECT_EQ(manifest["recipe"]["calibration"]["file"], "calibration.txt");
  EXPECT_EQ(manifest["recipe"]["calibration"]["windows"], 2);
  EXPECT_EQ(manifest["recipe"]["calibration"]["window_tokens"], 32);
  EXPECT_EQ(manifest["recipe"]["calibration"]["hash"],
            content_hash(testing::read_bytes(testing::demo_dir() / "calibration.txt")));

  EXPECT_EQ(manifest["scales"].size(), 2u * 7);
  for (const auto& [module, scale] : manifest["scales"].items()) {
    EXPECT_FLOAT_EQ(scale["input"].get<float>(), scale["max"].get<float>() / 127) << module;
    EXPECT_LE(scale["percentile_99_9"].get<float>(), scale["max"].get<float>()) << module;
  }
  // Query, key and value read the same rows.
  const auto& scales = manifest["scales"];
  EXPECT_EQ(scales["model.layers.0.self_attn.q_proj"], scales["model.layers.0.self_attn.k_proj"]);

  const std::vector<std::string> names = names_in(folder / "p");
  EXPECT_EQ(manifest["files"].size() + 1, names.size());
  for (const auto& [name, entry] : manifest["files"].items()) {
    EXPECT_TRUE(std::ranges::binary_search(names, name));
    EXPECT_EQ(entry["bytes"], fs::file_size(folder / "p" / name));
  }
}

// Devices of the nodes named `node` or below it in one phase.
std::set<std::string> devices_of(const Json& manifest, const char* phase, const std::string& end) {
  std::set<std::string> devices;
  for (const auto& row : manifest["placement"][phase])
    if (row["node"].get<std::string>().ends_with(end)) devices.insert(row["device"]);
  return devices;
}

TEST(BuildPackage, ExcludedModulesStayFloatInBothPhases) {
  const ScratchFolder folder;
  write_tiny_checkpoint(folder / "c", {.intermediate = 96});
  Recipe recipe = quick_recipe();
  const std::string message =
      error_of([&] { build_tiny_package(folder / "c", folder / "p", recipe); });
  EXPECT_NE(message.find("model.layers.0.mlp.down_proj"), std::string::npos) << message;
  EXPECT_NE(message.find("K = 96"), std::string::npos) << message;
  EXPECT_NE(message.find("group size 64"), std::string::npos) << message;
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"c"});

  recipe.exclude = {"*.down_proj"};
  build_tiny_package(folder / "c", folder / "p", recipe);
  const auto decode = SafetensorsFile::open(folder / "p/decode.safetensors").tensors;
  const auto prefill = SafetensorsFile::open(folder / "p/prefill.safetensors").tensors;
  EXPECT_TRUE(decode.contains("model.layers.0.mlp.down_proj.weight"));
  EXPECT_FALSE(decode.contains("model.layers.0.mlp.down_proj.codes"));
  EXPECT_FALSE(prefill.contains("model.layers.0.mlp.down_proj.codes"));
  EXPECT_TRUE(prefill.contains("model.layers.0.mlp.up_proj.codes"));
  const Json manifest = read_manifest(folder / "p");
  EXPECT_FALSE(manifest["scales"].contains("model.layers.0.mlp.down_proj"));
  EXPECT_EQ(devices_of(manifest, "prefill", ".down_proj"), std::set<std::string>{"cpu"});
  EXPECT_EQ(devices_of(manifest, "prefill", ".up_proj"), std::set<std::string>{"npu"});
  EXPECT_EQ(devices_of(manifest, "decode", "_proj"), std::set<std::string>{"cpu"});
  ThreadPool pool(1);
  const Package package = Package::open(folder / "p", pool);
  EXPECT_EQ(
      describe(package.weights(Phase::kPrefill)->linear("model.layers.0.mlp.down_proj", 64, 96)),
      "f32 [64, 96]");

  recipe.exclude = {"*.down_proj", "*.donw_proj"};
  const std::string slip =
      error_of([&] { build_tiny_package(folder / "c", folder / "q", recipe); });
  EXPECT_NE(slip.find("\"*.donw_proj\" matches no module"), std::string::npos) << slip;
}

TEST(BuildPackage, HeadMayStayFloat) {
  const ScratchFolder folder;
  write_tiny_checkpoint(folder / "c");
  Recipe recipe = quick_recipe();
  recipe.lm_head_group_size = 0;
  build_tiny_package(folder / "c", folder / "p", recipe);
  ThreadPool pool(1);
  const Package package = Package::open(folder / "p", pool);
  const JsonObject config(package.config(), "config.json");
  for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
    const Graph graph = build_graph(config, *package.weights(phase));
    const Node& head = graph.nodes().back();
    ASSERT_EQ(head.name, "lm_head");
    EXPECT_EQ(describe(head.as<LinearAttributes>().weight), "f32 [4096, 64]");
  }
}

TEST(BuildPackage, RefusesRecipesThatMakeNoSense) {
  const ScratchFolder folder;
  write_tiny_checkpoint(folder / "c");
  const auto message = [&](const auto& change) {
    Recipe recipe = quick_recipe();
    change(recipe);
    return error_of([&] { build_tiny_package(folder / "c", folder / "p", recipe); });
  };
  EXPECT_NE(message([](Recipe& r) { r.group_size = 48; }).find("group size"), std::string::npos);
  EXPECT_NE(message([](Recipe& r) { r.lm_head_group_size = 16; }).find("lm_head"),
            std::string::npos);
  EXPECT_NE(message([](Recipe& r) { r.input_scale = "mean"; }).find("\"mean\""), std::string::npos);
  EXPECT_NE(message([](Recipe& r) { r.chunk = 0; }).find("chunk"), std::string::npos);
  EXPECT_NE(message([](Recipe& r) { r.chunk = 1 << 20; }).find("chunk"), std::string::npos);
  EXPECT_NE(message([](Recipe& r) { r.samples = 0; }).find("[calibrate]"), std::string::npos);
  EXPECT_NE(message([](Recipe& r) { r.window = 0; }).find("[calibrate]"), std::string::npos);

  write_bytes(folder / "short.txt", "Once upon");
  ThreadPool pool(1);
  const auto build = [&](const fs::path& text) {
    return error_of([&] { build_package(folder / "c", text, folder / "p", quick_recipe(), pool); });
  };
  EXPECT_NE(build(folder / "short.txt").find("expected at least one window of 32"),
            std::string::npos);
  EXPECT_NE(build(folder / "none.txt").find("none.txt"), std::string::npos);
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"c", "short.txt"}));
}

class BuildPackageTarget : public ::testing::Test {
 protected:
  void SetUp() override { write_tiny_checkpoint(folder_ / "c"); }
  std::string refusal(const fs::path& target) {
    return error_of([&] { build_tiny_package(folder_ / "c", target); });
  }
  ScratchFolder folder_;
};

TEST_F(BuildPackageTarget, IsNeverSomebodysFolder) {
  fs::create_directories(folder_ / "home");
  write_bytes(folder_ / "home/letter.txt", "Dear");
  EXPECT_NE(refusal(folder_ / "home").find("it has no tandem.json"), std::string::npos);
  write_bytes(folder_ / "home/tandem.json", "{}");
  EXPECT_NE(refusal(folder_ / "home").find("home"), std::string::npos);
  EXPECT_EQ(testing::read_bytes(folder_ / "home/letter.txt"), "Dear");
  EXPECT_NE(refusal(folder_ / "c").find("is the checkpoint"), std::string::npos);
  EXPECT_NE(refusal(folder_ / "home/../c/.").find("is the checkpoint"), std::string::npos);
  EXPECT_NE(refusal(folder_ / "home/letter.txt").find("is not a folder"), std::string::npos);
  EXPECT_NE(refusal("").find("expected the name of a folder"), std::string::npos);
  EXPECT_EQ(names_in(folder_.path()), (std::vector<std::string>{"c", "home"}));
}

TEST_F(BuildPackageTarget, MayBeAbsentEmptyOrAPackage) {
  build_tiny_package(folder_ / "c", folder_ / "new/deep/p/");
  EXPECT_EQ(names_in(folder_ / "new/deep"), std::vector<std::string>{"p"});
  fs::create_directories(folder_ / "empty");
  build_tiny_package(folder_ / "c", folder_ / "empty");
  EXPECT_TRUE(Package::is_package(folder_ / "empty"));
  Recipe recipe = quick_recipe();
  recipe.group_size = 32;
  build_tiny_package(folder_ / "c", folder_ / "empty/", recipe);
  EXPECT_EQ(read_manifest(folder_ / "empty")["recipe"]["decode"]["group_size"], 32);
  EXPECT_EQ(names_in(folder_.path()), (std::vector<std::string>{"c", "empty", "new"}));

  write_bytes(folder_ / "empty/notes.txt", "mine");
  EXPECT_NE(refusal(folder_ / "empty").find("it holds notes.txt"), std::string::npos);
  fs::remove(folder_ / "empty/notes.txt");
  write_bytes(folder_ / "empty/tandem.json", "{");
  EXPECT_NE(refusal(folder_ / "empty").find("tandem.json"), std::string::npos);
}

TEST_F(BuildPackageTarget, IsAsItWasAfterAnInterruption) {
  build_tiny_package(folder_ / "c", folder_ / "p");
  const std::string before = testing::read_bytes(folder_ / "p/tandem.json");
  ThreadPool pool(2);
  Recipe recipe = quick_recipe();
  recipe.group_size = 32;
  int steps = 0;
  const auto count = [&] { return ++steps > 1000; };
  build_package(folder_ / "c", testing::demo_dir() / "calibration.txt", folder_ / "q", recipe, pool,
                count);
  const int all = steps;
  ASSERT_GT(all, 10);
  for (int stop = 1; stop <= all; stop += 3) {
    steps = 0;
    try {
      build_package(folder_ / "c", testing::demo_dir() / "calibration.txt", folder_ / "p", recipe,
                    pool, [&] { return ++steps >= stop; });
      ADD_FAILURE() << "not interrupted at step " << stop;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCancelled);
    }
    EXPECT_EQ(steps, stop);
    EXPECT_EQ(testing::read_bytes(folder_ / "p/tandem.json"), before);
    EXPECT_EQ(names_in(folder_.path()), (std::vector<std::string>{"c", "p", "q"}));
  }
}

}  // namespace
}  // namespace tandem
