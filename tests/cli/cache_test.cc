// tandem cache: what a run leaves there, and removing it.
#include <gtest/gtest.h>

#include "cli/program.h"

namespace tandem::testing {
namespace {

class CacheCommand : public ::testing::Test {
 protected:
  std::string cache() const { return (folder_ / "cache").string(); }
  Json list() { return run_for_json({"cache", "list", "--cache", cache()}); }
  Outcome run(const std::vector<std::string>& more = {}) {
    std::vector<std::string> words = {"-q", "run", demo_package(), "-p",   "Once",
                                      "-n", "2",   "--cache",      cache()};
    words.insert(words.end(), more.begin(), more.end());
    return run_program(words);
  }

  const ScratchFolder folder_;
};

TEST_F(CacheCommand, ListsPrunesAndClears) {
  EXPECT_EQ(list()["files"].size(), 0U);
  EXPECT_EQ(run().status, 0);
  const Json full = list();
  EXPECT_GT(full["files"].size(), 40U);
  EXPECT_GT(full["bytes"], 1'000'000);
  const Outcome text = run_program({"cache", "--cache", cache()});
  EXPECT_NE(text.out.find("last used 20"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find(cache() + ": "), std::string::npos) << text.out;
  const Json kept = run_for_json({"cache", "prune", "--cache", cache(), "--unused-days", "1"});
  EXPECT_EQ(kept["removed_files"], 0);
  const Json pruned = run_for_json({"cache", "prune", "--cache", cache(), "--max-size", "1MB"});
  EXPECT_GT(pruned["removed_files"], 0);
  EXPECT_LE(list()["bytes"], 1'000'000);
  EXPECT_EQ(run().status, 0);
  run_for_json({"cache", "clear", "--cache", cache()});
  EXPECT_EQ(list()["bytes"], 0);
}

TEST_F(CacheCommand, RunKeepsToTheLimit) {
  EXPECT_EQ(run({"--cache-limit", "500KB"}).status, 0);
  EXPECT_LE(list()["bytes"], 500'000);
}

// A file that somebody wrote to makes no other text, and says so.
TEST_F(CacheCommand, RunSaysThatAFileWasDamaged) {
  const Outcome first = run();
  const Json before = list();
  for (const Json& file : before["files"]) {
    const std::string name = file["name"];
    if (!name.ends_with(".panels")) continue;
    std::string bytes = read_text_file(folder_ / ("cache/" + name));
    bytes[0] = static_cast<char>(bytes[0] ^ 1);
    write_bytes(folder_ / ("cache/" + name), bytes);
  }
  const auto run_aloud = [&] {
    return run_program({"run", demo_package(), "-p", "Once", "-n", "2", "--cache", cache()});
  };
  const Outcome second = run_aloud();
  EXPECT_EQ(second.out, first.out);
  EXPECT_NE(second.err.find("is damaged"), std::string::npos) << second.err;
  EXPECT_EQ(run_aloud().err.find("is damaged"), std::string::npos);
}

TEST_F(CacheCommand, MistakesAreNamed) {
  expect_refusal({"cache", "purge"}, {"expected one of list, prune, clear, got 'purge'"});
  expect_refusal({"cache", "prune", "--cache", cache()}, {"--max-size or --unused-days"});
  expect_refusal({"cache", "list", "--max-size", "1GB"}, {"expected with prune"});
  expect_refusal({"cache", "prune", "--max-size", "much"}, {"--max-size"});
}

}  // namespace
}  // namespace tandem::testing
