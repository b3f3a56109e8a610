// The command line itself: help, unknown options, exit status.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <map>

#include "base/version.h"
#include "cli/program.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using testing::Outcome;
using testing::run_program;

const std::vector<std::string> kModelFlags = {"model",        "--mode",     "--pipeline",
                                              "-t,--threads", "--chunk",    "--kernels",
                                              "--cache",      "--no-cache", "--verify"};

// Every flag that the documents name; help must say each.
std::map<std::string, std::vector<std::string>> flags() {
  std::map<std::string, std::vector<std::string>> all = {
      {"inspect", {"folder", "--tensors", "--verify", "--graph", "--json"}},
      {"quantize",
       {"checkpoint", "-o,--output", "--calib", "--group-size", "--lm-head", "--exclude",
        "--input-scale", "--samples", "--max-kl", "--max-kl-text", "--max-size-increase",
        "--report", "--seq-len", "--chunk", "--recipe", "--dump-after", "-t,--threads", "--json"}},
      {"run", {"-p,--prompt",   "-f,--file",       "-n,--tokens",     "--chat",
               "--system",      "--chat-template", "--parse-special", "--sample",
               "--temperature", "--top-k",         "--top-p",         "--repetition-penalty",
               "--seed",        "--max-length",    "--min-length",    "--ignore-eos",
               "--placement",   "--qnn-model",     "--vocab",         "--merge",
               "--trace",       "--endless",       "--sink",          "--evict",
               "--lookup",      "--json"}},
      {"logits", {"--ids", "-o,--output"}},
      {"template",
       {"file", "--messages", "--tools", "--context", "--no-generation-prompt", "--now"}},
      {"tokenize", {"tokenizer", "-p,--prompt", "-f,--file", "--no-special", "--plain", "--json"}},
      {"detokenize", {"tokenizer", "--ids", "-f,--file", "--no-special", "--json"}},
      {"eval",
       {"--text", "--questions", "--against", "--handover", "--window", "--max-windows",
        "--by-layer", "--fix", "--calib", "--recipe", "--layer-windows", "--max-kl",
        "--max-size-increase", "--json"}},
      {"compare",
       {"checkpoint", "package", "--text", "--questions", "-p,--prompt", "--max-windows",
        "-t,--threads", "--json"}},
      {"bench", {"-p,--prompt", "-g,--generate", "-r,--repetitions", "--json"}},
      {"devices", {"-t,--threads", "--json"}},
      {"cache", {"--cache", "--max-size", "--unused-days", "--json"}},
      {"profile", {"--config-file", "--compat", "--report", "--seq-len", "-t,--threads"}},
      {"export-qnn", {"--config-file"}},
      {"export-rotated", {"--config-file"}},
      {"report",
       {"trace", "-o,--output", "--simulate", "--layers", "--chunks", "--policy", "--trace",
        "--json"}},
      {"build",
       {"-i,-m,--input,--model", "-o,--output", "-p,--precision", "-e,--execution-provider",
        "--extra-options", "--phase", "--dialect", "-t,--threads", "--json"}},
      {"synth", {"--shape", "-o,--output", "--seed", "-t,--threads"}},
  };
  for (const char* command : {"run", "logits", "eval", "bench"})
    all[command].insert(all[command].end(), kModelFlags.begin(), kModelFlags.end());
  return all;
}

TEST(Help, NamesEveryCommandAndFlag) {
  const Outcome program = run_program({"--help"});
  EXPECT_EQ(program.status, 0);
  for (const auto& [command, names] : flags()) {
    EXPECT_NE(program.out.find("\n  " + command + " "), std::string::npos) << command;
    const Outcome help = run_program({command, "--help"});
    EXPECT_EQ(help.status, 0);
    EXPECT_EQ(help.err, "");
    for (const std::string& name : names)
      EXPECT_NE(help.out.find("  " + name), std::string::npos) << command << " " << name;
  }
}

TEST(Help, VersionIsThatOfTheBuild) {
  const Outcome outcome = run_program({"--version"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.out, std::string(build_version()) + "\n");
}

TEST(Output, FullDiskIsAnError) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "needs /dev/full";
  const std::string command = std::string(TANDEM_PROGRAM) + " tokenize " + testing::demo() +
                              " -p hi 2>/dev/null >/dev/full";
  const int status = std::system(command.c_str());
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status;
}

TEST(Help, UnknownWordsEndWithStatus2) {
  const std::vector<std::vector<std::string>> wrong = {
      {"frobnicate"},
      {"inspect"},
      {"inspect", testing::demo(), "--nonsense"},
      {"run", testing::demo(), "-p", "x", "--mode", "quantum"},
      {"run", testing::demo(), "-p", "x", "-n", "many"},
      {"run", testing::demo(), "-p", "x", "-f", "y"},
      {"run", testing::demo(), "-p", "x", "--system", "be kind"},
      {"run", testing::demo(), "-p", "x", "--chat-template", "y"},
      {"run", testing::demo(), "-p", "x", "--parse-special"},
      {"template", testing::demo()},
      {"run", testing::demo(), "-p", "x", "-t", "0"},
      {"quantize", testing::demo()},
      {"quantize", testing::demo(), "-o", "x", "--calib", "y", "--group-size", "48"},
      {"quantize", testing::demo(), "-o", "x", "--recipe", "y", "--group-size", "32"},
      {"quantize", testing::demo(), "-o", "x", "--recipe", "y", "--lm-head", "float"},
      {"quantize", testing::demo(), "-o", "x", "--calib", "y", "--dump-after"},
      {"eval", testing::demo()},
      {"eval", testing::demo(), "--text", "x", "--max-windows", "-1"},
      {"compare", testing::demo(), "p", "--text", "x", "--max-windows", "-1"},
      {"synth", "--shape", "gpt-5", "-o", "x"},
      {"report"},
      {"report", "x", "--simulate", "npu=1"},
      {"report", "x", "--chunks", "4"},
      {"inspect", testing::demo(), "--json", "--graph"},
  };
  for (const auto& arguments : wrong) {
    const Outcome outcome = run_program(arguments);
    EXPECT_EQ(outcome.status, 2) << ::testing::PrintToString(arguments);
    EXPECT_EQ(outcome.out, "");
    EXPECT_TRUE(outcome.err.starts_with("tandem: error: ")) << outcome.err;
    EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
  }
}

}  // namespace
}  // namespace tandem
