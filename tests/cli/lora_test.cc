// tandem quantize --lora.
#include <gtest/gtest.h>

#include "checkpoint/adapter_files.h"
#include "cli/program.h"

namespace tandem {
namespace {

using testing::demo;
using testing::expect_refusal;
using testing::Outcome;
using testing::run_program;
using testing::ScratchFolder;

TEST(LoraFlag, MergesAnAdapter) {
  const ScratchFolder folder;
  testing::AdapterFiles files;
  files.add("model.layers.0.mlp.up_proj", 768, 256);
  files.config["lora_alpha"] = 200;
  files.write(folder / "adapter");
  const auto words = [&](const std::string& target) {
    return std::vector<std::string>{"quantize", demo(), "-o", (folder / target).string(),
                                    "--export", "awq",  "-t", "2"};
  };
  const Outcome plain = run_program(words("plain"));
  ASSERT_EQ(plain.status, 0) << plain.err;
  std::vector<std::string> with = words("with");
  with.insert(with.end(), {"--lora", (folder / "adapter").string()});
  const Outcome outcome = run_program(with);
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const auto before = SafetensorsFile::open(folder / "plain/model.safetensors").tensors;
  const auto after = SafetensorsFile::open(folder / "with/model.safetensors").tensors;
  ASSERT_EQ(before.size(), after.size());
  for (const auto& [name, tensor] : before)
    EXPECT_EQ(std::ranges::equal(tensor.bytes(), after.at(name).bytes()),
              !name.starts_with("model.layers.0.mlp.up_proj."))
        << name;
  with[3] = (folder / "again").string();
  with.back() = (folder / "none").string();
  expect_refusal(with, {"[lora]", "none: no such file or folder"});
  EXPECT_FALSE(fs::exists(folder / "again"));
}

}  // namespace
}  // namespace tandem
