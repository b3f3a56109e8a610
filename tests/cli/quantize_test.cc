// tandem quantize, synth and inspect: what they write, what they refuse, and being killed.
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <thread>

#include "cli/program.h"
#include "package/package.h"

namespace tandem {
namespace {

using testing::demo;
using testing::expect_refusal;
using testing::names_in;
using testing::Outcome;
using testing::Program;
using testing::run_for_json;
using testing::run_program;
using testing::ScratchFolder;
using testing::write_bytes;

std::vector<std::string> quantize_words(const fs::path& target, const std::string& group = "128") {
  return {
      "quantize",     demo(), "-o",        target.string(), "--calib", demo() + "/calibration.txt",
      "--samples",    "2",    "--seq-len", "128",           "-t",      "2",
      "--group-size", group};
}

TEST(QuantizeCommand, ReportsWhatItWrote) {
  const ScratchFolder folder;
  const Json report = run_for_json(quantize_words(folder.path() / "p/"));
  EXPECT_EQ(report["linears"], 43);
  EXPECT_EQ(report["calibration_tokens"], 256);
  EXPECT_EQ(report["decode_bytes"], fs::file_size(folder / "p/decode.safetensors"));
  EXPECT_EQ(report["prefill_bytes"], fs::file_size(folder / "p/prefill.safetensors"));
  EXPECT_GT(report["seconds"].get<double>(), 0);
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"p"});

  // Again, over the first, with the module pattern before the folder.
  const Outcome again =
      run_program({"-q", "quantize", "--exclude", "*.down_proj", demo(), "-o",
                   (folder / "p").string(), "--calib", demo() + "/calibration.txt", "--samples",
                   "1", "--seq-len", "64", "--lm-head", "float"});
  EXPECT_EQ(again.status, 0) << again.err;
  EXPECT_EQ(again.err, "");
  const Json inspected = run_for_json({"inspect", (folder / "p").string()});
  EXPECT_EQ(inspected["linears"]["prefill"]["int8"]["count"], 36);
  EXPECT_EQ(inspected["linears"]["prefill"]["bf16"]["count"], 7);
  EXPECT_EQ(inspected["linears"]["decode"]["int4 g128"]["count"], 36);
}

TEST(QuantizeCommand, RefusesFoldersThatAreNotItsOwn) {
  const ScratchFolder folder;
  fs::create_directories(folder / "home");
  write_bytes(folder / "home/letter.txt", "Dear");
  expect_refusal(quantize_words(folder / "home"), {"home", "is not a package"});
  expect_refusal(quantize_words(folder.path() / "home/"), {"home", "is not a package"});
  expect_refusal(quantize_words(folder / "home/letter.txt"), {"letter.txt", "not a folder"});
  expect_refusal(quantize_words(demo()), {"models/demo", "is the checkpoint"});
  EXPECT_EQ(names_in(folder / "home"), std::vector<std::string>{"letter.txt"});

  std::vector<std::string> words = quantize_words(folder / "p");
  words.insert(words.end(), {"--exclude", "*.nothing"});
  expect_refusal(words, {"*.nothing", "matches no module"});
  words = quantize_words(folder / "p");
  words[5] = (folder / "none.txt").string();
  expect_refusal(words, {"none.txt"});
  words[1] = (folder / "none").string();
  expect_refusal(words, {"none"});
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"home"});
}

TEST(QuantizeCommand, KilledAtAnyMomentLeavesTheOldPackageOrTheNew) {
  using namespace std::chrono;
  const ScratchFolder folder;
  const fs::path target = folder / "p";
  const auto start = steady_clock::now();
  ASSERT_EQ(run_program(quantize_words(target)).status, 0);
  const auto whole = steady_clock::now() - start;
  ThreadPool pool(1);
  constexpr int kKills = 20;
  int killed = 0;
  std::string group = "128";
  for (int i = 0; i < kKills; ++i) {
    const std::string next = group == "128" ? "64" : "128";
    {
      Program program(quantize_words(target, next));
      std::this_thread::sleep_for(whole * (i + 1) / kKills);
      program.send(SIGKILL);
      killed += program.wait().status == 128 + SIGKILL ? 1 : 0;
    }
    const Package package = Package::open(target, pool);
    group = package.manifest()["recipe"]["decode"]["group_size"].dump();
    EXPECT_TRUE(group == "128" || group == "64");
    for (const Phase phase : {Phase::kPrefill, Phase::kDecode})
      build_graph(JsonObject(package.config(), "config.json"), *package.weights(phase));
  }
  EXPECT_GE(killed, 1);  // all but a few, unless the machine got much faster meanwhile
  ASSERT_EQ(run_program(quantize_words(target)).status, 0);
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"p"});
}

TEST(QuantizeCommand, InterruptedEndsCleanly) {
  const ScratchFolder folder;
  std::vector<std::string> words = quantize_words(folder / "p");
  words[7] = "100000";  // windows: as many as the text has
  Program program(words);
  // The temporary folder appears after the signal handler is in place.
  for (int i = 0; i < 500 && fs::is_empty(folder.path()); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  program.send(SIGINT);
  const Outcome outcome = program.wait();
  EXPECT_EQ(outcome.status, 130) << outcome.err;
  EXPECT_NE(outcome.err.find("interrupted"), std::string::npos);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(SynthCommand, WritesACheckpointAndReplacesOnlyItsOwn) {
  const ScratchFolder folder;
  const std::string target = (folder / "s").string();
  const std::vector<std::string> words = {"synth", "--shape", "demo", "-o", target + "/"};
  EXPECT_EQ(run_program(words).status, 0);
  EXPECT_EQ(run_program(words).status, 0);
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"s"});
  EXPECT_EQ(run_for_json({"inspect", target})["model"]["layers"], 6);
  const Outcome run = run_program({"run", target, "-p", "ab", "-n", "3", "--ignore-eos"});
  EXPECT_EQ(run.status, 0) << run.err;

  write_bytes(folder / "s/notes.txt", "mine");
  expect_refusal(words, {"notes.txt"});
  fs::copy(demo(), folder / "copy");
  for (const char* name : {"README.md", "calibration.txt", "eval_questions.json",
                           "eval_stories.txt", "reference.json", "reference_logits.safetensors"})
    fs::remove(folder / "copy" / name);
  expect_refusal({"synth", "--shape", "demo", "-o", (folder / "copy").string()},
                 {"copy", "were not made by synth"});
}

TEST(InspectCommand, DescribesCheckpointAndPackage) {
  const Json checkpoint = run_for_json({"inspect", demo()});
  EXPECT_EQ(checkpoint["kind"], "checkpoint");
  EXPECT_EQ(checkpoint["model"]["model_type"], "qwen2");
  EXPECT_EQ(checkpoint["model"]["hidden_size"], 256);
  EXPECT_EQ(checkpoint["model"]["context_length"], 512);
  EXPECT_EQ(checkpoint["linears"]["float"]["bf16"]["count"], 43);
  EXPECT_EQ(checkpoint["tensors"].size(), 74u);

  const Json package = run_for_json({"inspect", testing::demo_package()});
  EXPECT_EQ(package["kind"], "package");
  EXPECT_EQ(package["recipe"]["decode"]["group_size"], 128);
  EXPECT_EQ(package["linears"]["prefill"]["int8"]["count"], 42);
  EXPECT_EQ(package["linears"]["prefill"]["int4 g32"]["count"], 1);
  EXPECT_EQ(package["linears"]["decode"]["int4 g128"]["count"], 42);

  const Outcome text = run_program({"inspect", testing::demo_package(), "--tensors", "--graph"});
  EXPECT_EQ(text.status, 0);
  for (const char* part :
       {"package, qwen2", "model.layers.5.mlp.down_proj.codes", "prefill:", "decode:"})
    EXPECT_NE(text.out.find(part), std::string::npos) << part;
}

}  // namespace
}  // namespace tandem
