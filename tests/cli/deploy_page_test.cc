// docs/deploy.md: its commands, in order, on the demo model.
#include <gtest/gtest.h>

#include <iomanip>
#include <sstream>

#include "cli/program.h"
#include "support.h"

namespace tandem {
namespace {

using testing::demo;
using testing::Outcome;
using testing::run_program;
using testing::ScratchFolder;

// A word of the page as the demo's: names in capitals stand for files.
std::string filled_in(std::string word, const fs::path& folder) {
  if (word == "MODEL") return demo();
  if (word == "HELD") return demo() + "/eval_stories.txt";
  if (word == "TEXT") return (folder / "text.txt").string();
  if (word.starts_with("OUT")) return (folder / word).string();
  return word;
}

TEST(DeployPage, EveryCommandWorks) {
  const ScratchFolder folder;
  write_text_file(folder / "text.txt",
                  read_text_file(demo() + "/calibration.txt").substr(0, 20'000));
  std::istringstream page(read_text_file(fs::path(TANDEM_SOURCE_DIR) / "docs/deploy.md"));
  int commands = 0;
  for (std::string line; std::getline(page, line);) {
    if (!line.starts_with("tandem ")) continue;
    std::vector<std::string> words;
    std::istringstream split(line.substr(7));
    for (std::string word; split >> std::quoted(word);)
      words.push_back(filled_in(word, folder.path()));
    if (words[0] == "run" || words[0] == "eval" || words[0] == "bench")
      words.emplace_back("--no-cache");
    if (words[0] == "eval") words.insert(words.end(), {"--window", "64"});
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.status, 0) << line << '\n' << outcome.err;
    ++commands;
  }
  EXPECT_EQ(commands, 19);
}

}  // namespace
}  // namespace tandem
