// Suggestions for words that the program does not know.
#include "cli/nearest.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "support.h"

namespace tandem::cli {
namespace {

namespace fs = std::filesystem;

TEST(EditDistance, CountsLetters) {
  EXPECT_EQ(edit_distance("", ""), 0u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("abc", ""), 3u);
  EXPECT_EQ(edit_distance("run", "run"), 0u);
  EXPECT_EQ(edit_distance("rnu", "run"), 1u);
  EXPECT_EQ(edit_distance("runn", "run"), 1u);
  EXPECT_EQ(edit_distance("ru", "run"), 1u);
  EXPECT_EQ(edit_distance("ran", "run"), 1u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
}

TEST(Nearest, IsNearOrNothing) {
  const std::vector<std::string> words = {"run", "bench", "--top-k", "--top-p", "tokenize"};
  EXPECT_EQ(nearest("rnu", words), "run");
  EXPECT_EQ(nearest("BENCH", words), "bench");
  EXPECT_EQ(nearest("--top-pp", words), "--top-p");
  EXPECT_EQ(nearest("tok", words), "tokenize");
  EXPECT_EQ(nearest("frobnicate", words), "");
  EXPECT_EQ(nearest("", words), "");
  EXPECT_EQ(nearest("x", words), "");
  EXPECT_EQ(nearest(std::string(100000, 'r'), words), "");
  EXPECT_EQ(nearest("run", {}), "");
}

TEST(Nearest, FindsPaths) {
  const testing::ScratchFolder folder;
  fs::create_directories(folder / "models/demo");
  const auto said = [&](const char* path) { return did_you_mean_path((folder / path).string()); };
  const std::string demo = "; did you mean '" + (folder / "models/demo").string() + "'?";
  EXPECT_EQ(said("models/dmeo"), demo);
  EXPECT_EQ(said("models/dmeo/"), demo);
  EXPECT_EQ(said("model/demo"), demo);
  EXPECT_EQ(said("modles/dmeo"), demo);
  EXPECT_EQ(said("models/demo"), "");
  EXPECT_EQ(said("models/other"), "");
  EXPECT_EQ(said("a/b/c/d"), "");
  EXPECT_EQ(did_you_mean_path(""), "");
}

}  // namespace
}  // namespace tandem::cli
