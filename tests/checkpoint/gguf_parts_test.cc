// GGUF models in several files: parts written by llama.cpp's Python package, and parts that are
// missing or don't belong together.
#include "checkpoint/gguf/gguf_parts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;

fs::path split(const std::string& name) {
  return testing::fixture("checkpoint/fixtures/split/" + name);
}

std::string part(int number) { return fmt::format("tiny-{:05}-of-00003.gguf", number); }

class GgufParts : public ::testing::Test {
 protected:
  GgufParts() {
    for (int number = 1; number <= 3; ++number)
      fs::copy_file(split(part(number)), scratch_ / part(number));
  }

  // Opening any part fails with a message that begins with the area and holds `reason`.
  void expect_refusal(const std::string& reason) {
    for (int number = 1; number <= 3; ++number) {
      if (!fs::exists(scratch_ / part(number))) continue;
      const std::string text = error_of([&] { Checkpoint::open(scratch_ / part(number)); });
      EXPECT_NE(text.find(reason), std::string::npos) << text;
    }
    EXPECT_NE(error_of([&] { Checkpoint::open(scratch_.path()); }).find(reason), std::string::npos);
  }

  // Sets the lowest byte of a whole number in the metadata of a part.
  void set(int number, const std::string& key, char value) {
    std::string bytes = read_text_file(scratch_ / part(number));
    const std::size_t at = bytes.find(key);
    ASSERT_NE(at, std::string::npos);
    bytes[at + key.size() + 4] = value;
    write_text_file(scratch_ / part(number), bytes);
  }

  void swap(int one, int other) {
    fs::rename(scratch_ / part(one), scratch_ / "kept");
    fs::rename(scratch_ / part(other), scratch_ / part(one));
    fs::rename(scratch_ / "kept", scratch_ / part(other));
  }

  testing::ScratchFolder scratch_;
};

TEST_F(GgufParts, AreOneCheckpointWhicheverIsNamed) {
  const Checkpoint whole = Checkpoint::open(split("whole.gguf"));
  for (const fs::path& path :
       {scratch_ / part(1), scratch_ / part(2), scratch_ / part(3), scratch_.path()}) {
    const Checkpoint checkpoint = Checkpoint::open(path);
    EXPECT_EQ(checkpoint.config(), whole.config());
    EXPECT_EQ(checkpoint.text_path(), scratch_ / part(1));
    EXPECT_EQ(checkpoint.weight_files(),
              (std::vector{scratch_ / part(1), scratch_ / part(2), scratch_ / part(3)}));
    EXPECT_EQ(checkpoint.contents(), whole.contents());
    for (const auto& [name, shape] : whole.contents()) {
      const Tensor got = checkpoint.load(name);
      const Tensor want = whole.load(name);
      EXPECT_TRUE(std::ranges::equal(got.bytes(), want.bytes())) << name;
    }
    EXPECT_EQ(gguf_metadata(scratch_ / part(3)).at("general.architecture"), "llama");
  }
}

TEST_F(GgufParts, OneIsMissing) {
  for (int number = 1; number <= 3; ++number) {
    fs::rename(scratch_ / part(number), scratch_ / "kept");
    expect_refusal(fmt::format("part {} of 3 is missing: expected tiny-0000{}-of-00003.gguf beside",
                               number, number));
    fs::rename(scratch_ / "kept", scratch_ / part(number));
  }
}

TEST_F(GgufParts, ContradictEachOther) {
  set(2, "split.count", 4);
  expect_refusal(part(2) + ": split.count: expected 3, as its name says, got 4");
  set(2, "split.count", 3);
  set(3, "split.no", 1);
  expect_refusal(part(3) + ": split.no: expected 2, as its name says, got 1");
  set(3, "split.no", 2);
  set(1, "split.tensors.count", 12);
  expect_refusal("split.tensors.count: the 3 parts hold 11 tensors, expected 12");
  set(1, "split.tensors.count", 11);
  swap(2, 3);
  expect_refusal("split.no: expected");
  swap(2, 3);
  EXPECT_EQ(Checkpoint::open(scratch_.path()).tensors().size(), 11u);
}

TEST_F(GgufParts, OneIsOfAnotherModel) {
  fs::copy_file(scratch_ / part(1), scratch_ / part(2), fs::copy_options::overwrite_existing);
  set(2, "split.no", 1);
  expect_refusal(part(2) + ": blk.0.attn_k.weight: is in an earlier part, too");
  std::string bytes = read_text_file(scratch_ / part(2));
  bytes.replace(bytes.find("llama", bytes.find("general.architecture")), 5, "qwen2");
  write_text_file(scratch_ / part(2), bytes);
  expect_refusal(part(2) +
                 R"(: general.architecture: expected "llama", as in the first part, got "qwen2")");
  // A whole model has no place among parts.
  fs::copy_file(split("whole.gguf"), scratch_ / part(2), fs::copy_options::overwrite_existing);
  const std::string text = error_of([&] { Checkpoint::open(scratch_ / part(1)); });
  EXPECT_NE(text.find(part(2) + ": split.count: expected 3, as its name says, got 0"),
            std::string::npos)
      << text;
}

TEST_F(GgufParts, OneIsTruncated) {
  fs::resize_file(scratch_ / part(3), fs::file_size(scratch_ / part(3)) - 1);
  expect_refusal(part(3));
  fs::resize_file(scratch_ / part(3), 3);
  EXPECT_NE(error_of([&] { Checkpoint::open(scratch_ / part(1)); }).find("magic"),
            std::string::npos);
}

TEST_F(GgufParts, AreFoundByName) {
  fs::rename(scratch_ / part(2), scratch_ / "second.gguf");
  EXPECT_EQ(error_of([&] { Checkpoint::open(scratch_ / "second.gguf"); }),
            "[gguf] " + (scratch_ / "second.gguf").string() +
                ": is part 2 of 3: expected a name that ends in -00002-of-00003.gguf, by which the "
                "others are found");
  for (const char* name :
       {"a-00000-of-00003.gguf", "a-00004-of-00003.gguf", "a-0000x-of-00003.gguf", "a-1-of-3.gguf",
        "00002-of-00003.gguf", "-00002-of-00003.bin", ""})
    EXPECT_EQ(first_gguf_part(name), name);
  EXPECT_EQ(first_gguf_part("f/-00002-of-00003.gguf"), "f/-00001-of-00003.gguf");
  // A whole model may be called as it likes.
  fs::copy_file(split("whole.gguf"), scratch_ / "x-00002-of-00007.gguf");
  EXPECT_EQ(Checkpoint::open(scratch_ / "x-00002-of-00007.gguf").tensors().size(), 11u);
  EXPECT_EQ(gguf_metadata(scratch_ / "x-00002-of-00007.gguf").at("general.architecture"), "llama");
}

TEST_F(GgufParts, TwoModelsInAFolder) {
  fs::copy_file(split("whole.gguf"), scratch_ / "whole.gguf");
  EXPECT_NE(error_of([&] { Checkpoint::open(scratch_.path()); }).find("holds 2 files .gguf"),
            std::string::npos);
}

}  // namespace
}  // namespace tandem
