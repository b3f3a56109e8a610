// tandem run and logits: text and figures, modes, interruption.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <thread>

#include "checkpoint/safetensors.h"
#include "cli/program.h"

namespace tandem {
namespace {

using testing::demo;
using testing::demo_package;
using testing::expect_refusal;
using testing::Outcome;
using testing::Program;
using testing::run_for_json;
using testing::run_program;
using testing::ScratchFolder;
using testing::write_bytes;

const std::string kPrompt = "Once upon a time, there was a small fox named Lily.";

TEST(RunCommand, TellsAStoryInEveryMode) {
  struct Case {
    std::string model, mode;
  };
  for (const Case& c :
       {Case{demo(), "float"}, {demo_package(), "hybrid"}, {demo_package(), "cpu"}}) {
    const Json report = run_for_json({"run", c.model, "-p", kPrompt, "-n", "16", "--mode", c.mode});
    EXPECT_EQ(report["mode"], c.mode);
    EXPECT_EQ(report["tokens"], 16);
    EXPECT_EQ(report["ids"].size(), 16u);
    EXPECT_EQ(report["ended"], "length");
    EXPECT_GT(report["prompt_tokens"].get<int>(), 5);
    EXPECT_GT(report["text"].get<std::string>().size(), 20u);
    for (const char* key : {"load_ms", "ttft_ms", "prefill_tokens_per_s", "decode_tokens_per_s"})
      EXPECT_GT(report[key].get<double>(), 0) << key;
    // The mode that a folder has by default, without --json: the same text alone on stdout.
    if (c.mode == "cpu") continue;
    const Outcome text = run_program({"run", c.model, "-p", kPrompt, "-n", "16"});
    EXPECT_EQ(text.status, 0);
    EXPECT_EQ(text.out, report["text"].get<std::string>() + "\n");
    EXPECT_NE(text.err.find(c.mode + " mode"), std::string::npos) << text.err;
    EXPECT_NE(text.err.find("tokens/s"), std::string::npos) << text.err;
  }
}

TEST(RunCommand, QuietSaysNothingBesideTheText) {
  const Outcome outcome = run_program({"-q", "run", demo_package(), "-p", kPrompt, "-n", "4"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.err, "");
}

TEST(RunCommand, ReadsThePromptFromAFileAndThroughTheChatTemplate) {
  const ScratchFolder folder;
  write_bytes(folder / "prompt.txt", "What is 10 plus 1?");
  const Json report =
      run_for_json({"run", demo(), "-f", (folder / "prompt.txt").string(), "--chat"});
  EXPECT_EQ(report["text"], "10 plus 1 is 11.");
  EXPECT_EQ(report["ended"], "end token");
}

TEST(RunCommand, SameSeedSameText) {
  const auto text = [](const char* seed) {
    return run_for_json(
        {"run", demo(), "-p", kPrompt, "-n", "24", "--temperature", "1.5", "--seed", seed})["text"];
  };
  EXPECT_EQ(text("5"), text("5"));
  EXPECT_NE(text("5"), text("6"));
}

TEST(RunCommand, PlacementGoesToStandardError) {
  const Outcome outcome = run_program({"run", demo_package(), "--placement"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.out, "");
  for (const char* part : {"prefill", "decode", "mlp.down_proj", "npu", "static int8"})
    EXPECT_NE(outcome.err.find(part), std::string::npos) << part;
}

TEST(RunCommand, InterruptedEndsCleanly) {
  Program program({"run", demo(), "-p", kPrompt, "-n", "1000000", "--ignore-eos", "-t", "1",
                   "--kernels", "ref"});
  for (int i = 0; i < 1000 && program.out_so_far().size() < 20; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  program.send(SIGINT);
  const Outcome outcome = program.wait();
  EXPECT_EQ(outcome.status, 130) << outcome.err;
  EXPECT_GE(outcome.out.size(), 20u);
  EXPECT_TRUE(outcome.out.ends_with('\n'));
  EXPECT_NE(outcome.err.find("interrupted"), std::string::npos) << outcome.err;
}

TEST(RunCommand, ModelCutShortWhileItIsInUseEndsInOneLine) {
  const ScratchFolder folder;
  const fs::path model = folder / "model";
  fs::copy(demo(), model);
  // The prompt is read once the model is mapped, and the program waits for it.
  const fs::path prompt = folder / "prompt";
  ASSERT_EQ(::mkfifo(prompt.c_str(), 0600), 0);
  Program program({"run", model.string(), "--no-cache", "-f", prompt.string()});
  int pipe = -1;
  for (int i = 0; i < 1000 && pipe < 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    pipe = ::open(prompt.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
  }
  ASSERT_GE(pipe, 0) << "nobody reads the prompt";
  fs::resize_file(model / "model.safetensors", 4096);
  EXPECT_EQ(::write(pipe, kPrompt.data(), kPrompt.size()), static_cast<ssize_t>(kPrompt.size()));
  ::close(pipe);
  const Outcome outcome = program.wait();
  EXPECT_EQ(outcome.status, 1);
  EXPECT_EQ(outcome.err, "tandem: error: [files] " + (model / "model.safetensors").string() +
                             ": was cut short or could not be read while it was in use\n");
}

TEST(RunCommand, RefusesBadPromptsAndSettings) {
  const ScratchFolder folder;
  std::string text;
  for (int i = 0; i < 600; ++i) text += "word ";
  write_bytes(folder / "long.txt", text);
  expect_refusal({"run", demo()}, {"prompt"});
  expect_refusal({"run", demo(), "-f", (folder / "none.txt").string()}, {"none.txt"});
  expect_refusal({"run", demo(), "-f", folder.path().string()}, {"expected a file, got a folder"});
  expect_refusal({"run", demo(), "-f", (folder / "long.txt").string()},
                 {"the prompt has ", " tokens, the context is 512"});
  expect_refusal({"run", demo(), "-p", "a", "--max-length", "513"}, {"513", "512"});
  expect_refusal({"run", demo(), "-p", "a", "--temperature", "-1"}, {"temperature"});
  expect_refusal({"run", demo(), "-p", "a", "--min-p", "2"}, {"min_p"});
  expect_refusal({"run", demo(), "-p", "a", "--seed", "-2"}, {"seed: expected -1 or more, got -2"});
  expect_refusal({"run", demo(), "-p", "a", "--greedy", "--sample"}, {"--greedy"});
  expect_refusal({"run", demo(), "-p", "a", "--raw", "--chat"}, {"--raw"});
  expect_refusal({"run", demo(), "-p", "a", "-n", "-2"}, {"-2"});
  expect_refusal({"run", demo(), "-p", "a", "-n", "4", "--min-length", "90"},
                 {"--min-length: expected at most ", " of prompt and 4 of answer, got 90"});
  expect_refusal({"run", demo(), "-p", "a", "--top-p", "1.5"}, {"top_p"});
  expect_refusal({"run", demo(), "-p", "a", "--mode", "hybrid"}, {"models/demo", "hybrid"});
  expect_refusal({"run", demo_package(), "-p", "a", "--mode", "float"}, {"float"});
  expect_refusal({"run", demo(), "-p", "a", "--kernels", "abacus"}, {"abacus"});
  expect_refusal({"run", (folder / "none").string(), "-p", "a"}, {"none"});
}

TEST(RunCommand, UnwritableCacheOnlyWarns) {
  const ScratchFolder folder;
  write_bytes(folder / "file", "");
  const Outcome outcome = run_program({"run", demo_package(), "-p", kPrompt, "-n", "2", "--cache",
                                       (folder / "file/cache").string()});
  EXPECT_EQ(outcome.status, 0);
  const std::size_t first = outcome.err.find("warning: cannot keep packed weights");
  EXPECT_NE(first, std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.err.find("warning", first + 10), std::string::npos) << outcome.err;
}

TEST(RunCommand, CacheIsFilledOnceAndKeptOutOnRequest) {
  const ScratchFolder folder;
  const std::string cache = (folder / "cache").string();
  const auto run = [&](std::vector<std::string> more) {
    std::vector<std::string> words = {"run", demo_package(), "-p", kPrompt, "-n", "4"};
    words.insert(words.end(), more.begin(), more.end());
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return outcome.out;
  };
  const std::string text = run({"--cache", cache});
  std::map<std::string, fs::file_time_type> before;
  for (const auto& entry : fs::directory_iterator(cache))
    before[entry.path().filename().string()] = entry.last_write_time();
  EXPECT_GT(before.size(), 40u);
  EXPECT_EQ(run({"--cache", cache}), text);
  EXPECT_EQ(run({"--no-cache"}), text);
  for (const auto& entry : fs::directory_iterator(cache))
    EXPECT_EQ(before.at(entry.path().filename().string()), entry.last_write_time());
  // Two first starts at once.
  const std::string other = (folder / "other").string();
  const std::vector<std::string> words = {"run", demo_package(), "-p", kPrompt, "-n",
                                          "4",   "--cache",      other};
  Program a(words), b(words);
  EXPECT_EQ(a.wait().out, text);
  EXPECT_EQ(b.wait().out, text);
  EXPECT_EQ(testing::names_in(other).size(), before.size());
}

TEST(LogitsCommand, WritesRowsOfEveryMode) {
  const ScratchFolder folder;
  write_bytes(folder / "ids.json", "[12, 500, 7, 4000, 1]");
  const auto logits = [&](const std::string& model, const std::string& mode) {
    const std::string output = (folder / (mode + ".safetensors")).string();
    const Outcome outcome = run_program(
        {"logits", model, "--ids", (folder / "ids.json").string(), "-o", output, "--mode", mode});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    const Tensor tensor = SafetensorsFile::open(output).tensors.at("logits");
    EXPECT_EQ(tensor.dtype(), DType::kF32);
    EXPECT_EQ(tensor.shape(), (Shape{5, 4096}));
    return tensor.to_floats();
  };
  const auto expected = logits(demo(), "float");
  const auto distance = [&](const std::vector<float>& values) {
    double error = 0, size = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      error += std::pow(values[i] - expected[i], 2);
      size += std::pow(expected[i], 2);
    }
    return std::sqrt(error / size);
  };
  for (const char* mode : {"hybrid", "cpu"}) {
    const double d = distance(logits(demo_package(), mode));
    EXPECT_GT(d, 0.0001) << mode;
    EXPECT_LT(d, 0.3) << mode;
  }
  write_bytes(folder / "object.json", "{\"ids\": [12, 500]}");
  const std::string output = (folder / "object.safetensors").string();
  EXPECT_EQ(
      run_program({"logits", demo(), "--ids", (folder / "object.json").string(), "-o", output})
          .status,
      0);
  EXPECT_EQ(SafetensorsFile::open(output).tensors.at("logits").shape(), (Shape{2, 4096}));
}

TEST(LogitsCommand, RefusesBadIdsAndWritesNothing) {
  const ScratchFolder folder;
  const fs::path ids = folder / "ids.json";
  const std::string output = (folder / "out.safetensors").string();
  std::string many = "[1";
  for (int i = 0; i < 512; ++i) many += ",1";
  for (const std::string& text :
       {std::string("[]"), std::string("7 x"), std::string("[1,"), std::string("[1.5]"),
        std::string("[\"a\"]"), std::string("[-1]"), std::string("[99999999999999999999]"),
        std::string("{\"ids\": 3}"), many + "]"}) {
    write_bytes(ids, text);
    expect_refusal({"logits", demo(), "--ids", ids.string(), "-o", output}, {"ids.json"});
  }
  write_bytes(ids, "[1, 4096]");
  expect_refusal({"logits", demo(), "--ids", ids.string(), "-o", output}, {"4096"});
  expect_refusal({"logits", demo(), "--ids", (folder / "none").string(), "-o", output}, {"none"});
  EXPECT_EQ(testing::names_in(folder.path()), std::vector<std::string>{"ids.json"});
  write_bytes(ids, "[1]");
  expect_refusal({"logits", demo(), "--ids", ids.string(), "-o", (folder / "no/out").string()},
                 {"no/out"});
}

}  // namespace
}  // namespace tandem
