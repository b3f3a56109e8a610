// tandem completion: scripts that the shells accept, and the words that bash offers.
#include <gtest/gtest.h>

#include <cstdlib>
#include <sstream>

#include "cli/program.h"

namespace tandem {
namespace {

using testing::Outcome;
using testing::run_program;

using Words = std::vector<std::string>;

// Single-quoted for sh.
std::string shell_quoted(const std::string& text) { return "'" + text + "'"; }

class BashCompletion : public ::testing::Test {
 protected:
  BashCompletion() {
    const Outcome outcome = run_program({"completion", "bash"});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    testing::write_bytes(folder_ / "script", outcome.out);
    fs::create_directory(folder_ / "here");
    testing::write_bytes(folder_ / "here/story one.txt", "");
    testing::write_bytes(folder_ / "here/story.json", "");
  }

  // What is offered for the last of the words that have been typed, in the folder "here".
  Words offered(const Words& typed) const {
    std::string command = "cd " + shell_quoted((folder_ / "here").string()) +
                          " && bash --norc -c " +
                          "'source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); " +
                          "_tandem; printf \"%s\\n\" \"${COMPREPLY[@]}\"' bash " +
                          shell_quoted((folder_ / "script").string());
    for (const std::string& word : typed) command += " " + shell_quoted(word);
    command += " > " + shell_quoted((folder_ / "out").string());
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
    std::istringstream lines(read_text_file(folder_ / "out"));
    Words words;
    for (std::string line; std::getline(lines, line);)
      if (!line.empty()) words.push_back(line);
    return words;
  }

  const testing::ScratchFolder folder_;
};

TEST_F(BashCompletion, OffersCommandsFlagsAndValues) {
  EXPECT_EQ(offered({"tandem", "ru"}), Words{"run"});
  EXPECT_EQ(offered({"tandem", "com"}), (Words{"compare", "completion"}));
  EXPECT_EQ(offered({"tandem", "-q", "insp"}), Words{"inspect"});
  EXPECT_EQ(offered({"tandem", "nothing"}), Words{});
  EXPECT_EQ(offered({"tandem", "run", "--mo"}), Words{"--mode"});
  EXPECT_EQ(offered({"tandem", "run", "--mode", ""}), (Words{"hybrid", "npu", "cpu", "float"}));
  EXPECT_EQ(offered({"tandem", "run", "--mode", "=", "h"}), Words{"hybrid"});
  EXPECT_EQ(offered({"tandem", "run", "--mode", "="}), (Words{"hybrid", "npu", "cpu", "float"}));
  EXPECT_EQ(offered({"tandem", "quantize", "--lm-head", "fl"}), Words{"float"});
  EXPECT_EQ(offered({"tandem", "quantize", "--group-size", ""}), (Words{"32", "64", "128"}));
  EXPECT_EQ(offered({"tandem", "convert", "--dtype", "q4"}),
            (Words{"q4_0", "q4_1", "q4_k", "q4_0_4_4"}));
  EXPECT_EQ(offered({"tandem", "completion", "z"}), Words{"zsh"});
  EXPECT_EQ(offered({"tandem", "help", "ru"}), Words{"run"});
  EXPECT_EQ(offered({"tandem", "version", ""}), Words{});
  // The name of something in the program is no file.
  EXPECT_EQ(offered({"tandem", "run", "--kernels", ""}), Words{});
  // A number has nothing to offer.
  EXPECT_EQ(offered({"tandem", "run", "-t", ""}), Words{});
  // Flags of the program are understood behind a command.
  EXPECT_EQ(offered({"tandem", "bench", "--qui"}), Words{"--quiet"});
}

TEST_F(BashCompletion, OffersFiles) {
  EXPECT_EQ(offered({"tandem", "eval", "--text", "story o"}), Words{"story one.txt"});
  EXPECT_EQ(offered({"tandem", "run", "story."}), Words{"story.json"});
  EXPECT_EQ(offered({"tandem", "run", "demo", "-f", "st"}).size(), 2u);
}

TEST(Completion, IsWhatEachShellReads) {
  const testing::ScratchFolder folder;
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const Outcome outcome = run_program({"completion", shell});
    EXPECT_EQ(outcome.status, 0);
    for (const char* word : {"quantize", "detokenize", "least_error", "completion"})
      EXPECT_NE(outcome.out.find(word), std::string::npos) << shell << " " << word;
    testing::write_bytes(folder / shell, outcome.out);
    const std::string there = std::string("command -v ") + shell + " >/dev/null";
    if (std::system(there.c_str()) != 0) continue;
    const std::string check = std::string(shell) + " -n " + (folder / shell).string();
    EXPECT_EQ(std::system(check.c_str()), 0) << check;
  }
}

// What fish offers for a line, where fish is installed.
TEST(Completion, InFish) {
  if (std::system("command -v fish >/dev/null") != 0) GTEST_SKIP() << "fish is not installed";
  const testing::ScratchFolder folder;
  testing::write_bytes(folder / "script", run_program({"completion", "fish"}).out);
  testing::write_bytes(folder / "here.txt", "");
  const auto offered = [&](const std::string& line) {
    const std::string command =
        "cd " + folder.path().string() + " && HOME=" + folder.path().string() +
        " fish --no-config -c 'source script; complete -C \"" + line + "\" | cut -f 1 > out'";
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
    return read_text_file(folder / "out");
  };
  EXPECT_EQ(offered("tandem ru"), "run\n");
  EXPECT_EQ(offered("tandem help ru"), "run\n");
  EXPECT_EQ(offered("tandem version "), "");
  EXPECT_EQ(offered("tandem run --mode h"), "hybrid\n");
  EXPECT_EQ(offered("tandem run --kernels "), "");
  EXPECT_EQ(offered("tandem run --mod"), "--mode\n");
  EXPECT_EQ(offered("tandem inspect her"), "here.txt\n");
  EXPECT_EQ(offered("tandem eval --text her"), "here.txt\n");
}

// zsh completes on a terminal only: one of its own gets the line and a tabulator.
TEST(Completion, InZsh) {
  if (std::system("command -v zsh >/dev/null") != 0) GTEST_SKIP() << "zsh is not installed";
  const testing::ScratchFolder folder;
  testing::write_bytes(folder / "script", run_program({"completion", "zsh"}).out);
  testing::write_bytes(folder / "here.txt", "");
  testing::write_bytes(
      folder / "ask",
      "zmodload zsh/zpty\n"
      "zpty shell zsh -f\n"
      "zpty -w shell 'PS1=; unsetopt zle_bracketed_paste; autoload -U compinit; compinit -D -u; "
      "source script; bindkey \"^I\" complete-word; print rea\"\"dy'\n"
      "zpty -r shell line '*ready*'\n"
      "zpty -w -n shell \"$1\"$'\\t'\n"
      "sleep 0.5\n"
      "zpty -w -n shell $'\\C-a: \\C-e; print en\"\"d\\n'\n"
      "zpty -r shell line '*end*'\n"
      "print -r -- $line\n");
  const auto offered = [&](const std::string& line) {
    const std::string command = "cd " + folder.path().string() +
                                " && HOME=" + folder.path().string() + " zsh -f ask " +
                                shell_quoted(line) + " > out 2>&1";
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
    return read_text_file(folder / "out");
  };
  const auto expect = [&](const std::string& line, const std::string& completed) {
    const std::string out = offered(line);
    EXPECT_NE(out.find(completed), std::string::npos) << line << ":\n" << out;
  };
  expect("tandem quan", "tandem quantize");
  expect("tandem help quan", "tandem help quantize");
  expect("tandem run --kern", "tandem run --kernels");
  expect("tandem run --mode hy", "tandem run --mode hybrid");
  expect("tandem inspect her", "tandem inspect here.txt");
}

TEST(Completion, RefusesOtherShells) {
  const Outcome outcome = run_program({"completion", "tcsh"});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_EQ(outcome.out, "");
  EXPECT_NE(outcome.err.find("tcsh"), std::string::npos) << outcome.err;
  EXPECT_EQ(run_program({"completion"}).status, 2);
}

}  // namespace
}  // namespace tandem
