// Runs that are interrupted and gone on with, against one that is not.
#include "quantize/journal.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "checkpoint/safetensors.h"
#include "quantize/quantize_model.h"
#include "quantize/tiny_checkpoint.h"
#include "support.h"

namespace tandem::testing {
namespace {

// Cancels after some units of work, and keeps what was said.
class Interrupter : public Observer {
 public:
  explicit Interrupter(std::int64_t after) : left_(after) {}
  void advance(std::int64_t count) override {
    left_ -= count;
    done += count;
  }
  void warn(std::string_view message) override { messages.emplace_back(message); }
  void inform(std::string_view message) override { messages.emplace_back(message); }
  bool cancelled() const override { return left_ < 0; }

  std::int64_t done = 0;
  std::vector<std::string> messages;

 private:
  std::int64_t left_;
};

// Of a small checkpoint beside the target.
QuantizeOptions options_for(const fs::path& target) {
  const fs::path checkpoint = target.parent_path() / "checkpoint";
  if (!fs::exists(checkpoint)) write_tiny_checkpoint(checkpoint, {.layers = 6});
  QuantizeOptions options{.checkpoint = checkpoint,
                          .calibration = demo_dir() / "calibration.txt",
                          .target = target,
                          .resume = true,
                          .journal_interval = std::chrono::milliseconds(0)};
  options.recipe = quick_recipe();
  options.recipe.calibration = {.samples = 2, .window = 48};
  for (const char* pass : {"smoothquant", "awq", "seqmse", "gptq"})
    options.recipe.passes.push_back({pass});
  options.recipe.passes[0].settings = {{"alpha", "search"}};
  options.recipe.passes[1].settings = {{"search_tokens", 48}};
  return options;
}

// Names and contents of the files in a folder.
std::map<std::string, std::string> contents_of(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder))
    files[entry.path().filename().string()] = read_text_file(entry.path());
  return files;
}

TEST(Journal, InterruptedRunsGiveTheSamePackage) {
  const ScratchFolder folder;
  ThreadPool pool(2);
  Interrupter whole(std::int64_t{1} << 40);
  quantize_model(options_for(folder / "whole"), pool, whole);
  EXPECT_FALSE(fs::exists(folder / "whole.resume"));
  const auto expected = contents_of(folder / "whole");
  const fs::path target = folder / "parts";
  // Ten moments without a pattern, over and over until the work is done.
  std::uint32_t random = 12345;
  int interruptions = 0;
  while (!fs::exists(target)) {
    random = random * 1664525U + 1013904223U;
    // What is taken up again counts as work done.
    const std::int64_t after = whole.done * (interruptions + 1) / 11 + random % 40;
    Interrupter observer(interruptions < 10 ? after : std::int64_t{1} << 40);
    try {
      quantize_model(options_for(target), pool, observer);
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::kCancelled) << error.what();
      ++interruptions;
      EXPECT_FALSE(fs::exists(target));
    }
  }
  EXPECT_GE(interruptions, 8);
  EXPECT_EQ(contents_of(target), expected);
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"checkpoint", "parts", "whole"}));
}

bool was_said(const Interrupter& observer, const std::string& text) {
  return std::ranges::any_of(observer.messages, [&](const std::string& message) {
    return message.find(text) != std::string::npos;
  });
}

TEST(Journal, FinishedBlocksAreNotRunAgain) {
  const ScratchFolder folder;
  ThreadPool pool(2);
  QuantizeOptions options = options_for(folder / "out");
  options.recipe.passes = {{"gptq"}};
  // 42 weights in six blocks: the fourth is being rounded.
  Interrupter first(25);
  EXPECT_NE(error_of([&] { quantize_model(options, pool, first); }).find("interrupted"),
            std::string::npos);
  EXPECT_TRUE(was_said(first, "with --resume goes on from them"));
  EXPECT_TRUE(fs::exists(folder / "out.resume/0-gptq-2.safetensors"));
  EXPECT_FALSE(fs::exists(folder / "out.resume/0-gptq-3.safetensors"));
  Interrupter second(std::int64_t{1} << 40);
  quantize_model(options, pool, second);
  EXPECT_TRUE(was_said(second, "0-gptq: going on after block 3"));
  EXPECT_FALSE(fs::exists(folder / "out.resume"));
}

TEST(Journal, LeavesNothingOfAShortRun) {
  const ScratchFolder folder;
  ThreadPool pool(2);
  QuantizeOptions options = options_for(folder / "out");
  options.journal_interval = std::chrono::hours(1);
  Interrupter observer(200);
  error_of([&] { quantize_model(options, pool, observer); });
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"checkpoint"});
}

TEST(Journal, RefusesAnotherJobAndDamage) {
  const ScratchFolder folder;
  ThreadPool pool(2);
  QuantizeOptions options = options_for(folder / "out");
  Interrupter observer(500);
  error_of([&] { quantize_model(options, pool, observer); });
  const fs::path kept = folder / "out.resume";
  ASSERT_TRUE(fs::exists(kept / "1-awq-0.safetensors"));
  const auto refusal = [&](const QuantizeOptions& changed) {
    return error_of([&] { quantize_model(changed, pool, silent()); });
  };
  QuantizeOptions other = options;
  other.recipe.passes.pop_back();
  EXPECT_EQ(refusal(other), "[quantize] " + kept.string() +
                                ": was begun with another recipe: run without --resume to begin "
                                "again");
  other = options;
  other.recipe.calibration.window = 32;
  EXPECT_NE(refusal(other).find("another calibration"), std::string::npos);
  // Cut short, not what it says it is, and without what is in it.
  const fs::path values = kept / "0-smoothquant-values.safetensors";
  const std::string bytes = read_text_file(values);
  write_bytes(values, bytes.substr(0, 20));
  EXPECT_NE(refusal(options).find(values.string()), std::string::npos);
  write_safetensors(values, {}, {{"layer", "x"}});
  EXPECT_NE(refusal(options).find("expected metadata with the number of a layer"),
            std::string::npos);
  write_safetensors(values, {}, {{"layer", "9"}});
  EXPECT_NE(refusal(options), "");
  write_text_file(kept / "job.json", "{");
  EXPECT_NE(refusal(options).find("job.json"), std::string::npos);
  // Without --resume it is begun again.
  options.resume = false;
  quantize_model(options, pool, silent());
  EXPECT_FALSE(fs::exists(kept));
}

}  // namespace
}  // namespace tandem::testing
