// Ctrl-C and SIGTERM: partial figures, nothing left behind, status 130 and 143.
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <thread>

#include "cli/program.h"

namespace tandem {
namespace {

using testing::demo;
using testing::demo_package;
using testing::names_in;
using testing::Outcome;
using testing::Program;
using testing::ScratchFolder;

// Waits until the program has come so far; gives up after a minute, which fails the test.
template <typename Condition>
void wait_until(Condition reached) {
  for (int i = 0; i < 3000 && !reached(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_TRUE(reached());
}

// Long enough for every machine: the signal ends it.
std::vector<std::string> long_eval() {
  std::vector<std::string> words = {"-q", "eval", demo(), "--window", "32", "-t", "1"};
  for (int i = 0; i < 200; ++i) words.insert(words.end(), {"--text", demo() + "/calibration.txt"});
  return words;
}

TEST(Signals, EndAnEvaluationWithWhatWasScored) {
  for (const auto& [signal, status] : {std::pair{SIGINT, 130}, {SIGTERM, 143}}) {
    std::vector<std::string> words = long_eval();
    // Progress tells when the first windows are scored.
    words.erase(words.begin());
    Program program(words);
    wait_until(
        [&] { return program.err_so_far().find("tandem: calibration.txt") != std::string::npos; });
    program.send(signal);
    const Outcome outcome = program.wait();
    EXPECT_EQ(outcome.status, status) << outcome.err;
    EXPECT_NE(outcome.out.find(" tokens, perplexity "), std::string::npos) << outcome.out;
    EXPECT_NE(outcome.err.find("[eval] interrupted"), std::string::npos) << outcome.err;
  }
}

TEST(Signals, EndABenchmarkWithItsFinishedRounds) {
  Program program({"bench", demo_package(), "-p", "16", "-g", "4", "-r", "1000000", "-t", "1"});
  wait_until([&] { return program.err_so_far().find("tandem: bench") != std::string::npos; });
  program.send(SIGTERM);
  const Outcome outcome = program.wait();
  EXPECT_EQ(outcome.status, 143) << outcome.err;
  EXPECT_NE(outcome.out.find("prefill "), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.err.find("of 1000000 rounds"), std::string::npos) << outcome.err;
}

TEST(Signals, EndAComparisonWithWhatWasMeasured) {
  std::vector<std::string> words = {"compare", demo(), demo_package(), "--threads", "1"};
  for (int i = 0; i < 50; ++i) words.insert(words.end(), {"--text", demo() + "/calibration.txt"});
  Program program(words);
  wait_until([&] { return program.err_so_far().find("tandem: compare") != std::string::npos; });
  program.send(SIGINT);
  const Outcome outcome = program.wait();
  EXPECT_EQ(outcome.status, 130) << outcome.err;
  EXPECT_NE(outcome.out.find("perplexity calibration.txt"), std::string::npos) << outcome.out;
  // No figure of a part stands beside one of the whole.
  EXPECT_NE(outcome.out.find("decode tokens/s                                -             -"),
            std::string::npos)
      << outcome.out;
  EXPECT_NE(outcome.err.find("[compare] interrupted"), std::string::npos) << outcome.err;
}

// At whatever moment it comes: the target is complete or not there, and nothing else is.
TEST(Signals, LeaveNothingBehind) {
  const std::vector<std::string> writers[] = {
      {"quantize", demo(), "-o", "OUT", "--calib", demo() + "/calibration.txt"},
      {"convert", demo(), "OUT"},
      {"convert", demo(), "OUT.gguf"},
      {"synth", "--shape", "qwen2.5-0.5b", "-o", "OUT"}};
  for (std::vector<std::string> words : writers) {
    for (const auto& [signal, status] : {std::pair{SIGINT, 130}, {SIGTERM, 143}}) {
      const ScratchFolder folder;
      std::vector<std::string> command = words;
      for (std::string& word : command)
        if (word.starts_with("OUT")) word = (folder / word).string();
      Program program(command);
      // As soon as something is written.
      wait_until([&] { return !names_in(folder.path()).empty(); });
      program.send(signal);
      const Outcome outcome = program.wait();
      if (outcome.status == 0) continue;  // it was done
      EXPECT_EQ(outcome.status, status) << outcome.err;
      EXPECT_TRUE(names_in(folder.path()).empty()) << command[0];
    }
  }
}

TEST(Signals, EndEveryReader) {
  const std::vector<std::string> waiting[] = {
      {"tokenize", demo()},
      {"detokenize", demo()},
      {"template", demo(), "--messages", "-"},
      {"run", demo(), "--chat", "--no-cache"},
      {"run", demo(), "-p", "Once", "-n", "100000000", "--ignore-eos", "--max-length", "512",
       "--no-cache"}};
  for (const auto& words : waiting) {
    Program program(words, "", true);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    program.send(SIGTERM);
    const Outcome outcome = program.wait();
    // The last may be done by then.
    EXPECT_TRUE(outcome.status == 0 || outcome.status == 143) << words[0] << outcome.err;
  }
}

}  // namespace
}  // namespace tandem
