// Folders that are not a model, or contain a damaged one: every command says so in one line.
#include <gtest/gtest.h>

#include "cli/program.h"

namespace tandem {
namespace {

using testing::demo;
using testing::expect_refusal;
using testing::ScratchFolder;
using testing::write_bytes;

// The commands that open a model folder, without it.
std::vector<std::vector<std::string>> commands(const std::string& model,
                                               const ScratchFolder& folder) {
  return {
      {"inspect", model},
      {"run", model, "-p", "Once"},
      {"bench", model, "-p", "4"},
      {"eval", model, "--text", demo() + "/eval_stories.txt"},
      {"quantize", model, "-o", (folder / "out").string(), "--calib", demo() + "/calibration.txt"}};
}

TEST(BadModel, MissingOrNoModel) {
  const ScratchFolder folder;
  fs::create_directories(folder / "empty");
  write_bytes(folder / "file", "x");
  for (const char* name : {"none", "empty", "file"}) {
    for (const auto& words : commands((folder / name).string(), folder))
      expect_refusal(words, {(folder / name).string()});
  }
  EXPECT_FALSE(fs::exists(folder / "out"));
}

TEST(BadModel, DamagedFilesAreNamed) {
  const ScratchFolder folder;
  const fs::path model = folder / "model";
  struct Damage {
    const char* file;
    const char* content;
    bool tokenizer;  // which inspect and bench don't read
  };
  for (const Damage& damage :
       {Damage{"config.json", "{\"model_type\": ", false},
        {"config.json", "[]", false},
        {"config.json", "{\"model_type\": \"unheard\"}", false},
        {"config.json", "{\"model_type\": \"qwen2\", \"hidden_size\": -4}", false},
        {"generation_config.json", "{", false},
        {"model.safetensors", "short", false},
        {"tokenizer.json", "{}", true},
        {"tokenizer.json", "\xff", true}}) {
    fs::remove_all(model);
    fs::copy(demo(), model);
    write_bytes(model / damage.file, damage.content);
    for (const auto& words : commands(model.string(), folder)) {
      if (damage.tokenizer && (words[0] == "inspect" || words[0] == "bench")) continue;
      expect_refusal(words, {(model / damage.file).string()});
    }
  }
  EXPECT_FALSE(fs::exists(folder / "out"));
}

TEST(BadModel, ChangedPackageIsNotRun) {
  const ScratchFolder folder;
  fs::copy(testing::demo_package(), folder / "p");
  write_bytes(folder / "p/config.json", "{}");
  expect_refusal({"run", (folder / "p").string(), "-p", "a"}, {"config.json"});
  fs::remove(folder / "p/config.json");
  expect_refusal({"inspect", (folder / "p").string()}, {"config.json"});
}

}  // namespace
}  // namespace tandem
