// A package with a prefix: every sequence computes what it would behind those tokens, and nobody who
// uses it sees them.
#include <gtest/gtest.h>

#include "quantize/quantize_model.h"
#include "runtime/demo_package.h"
#include "runtime/generator.h"

namespace tandem {
namespace {

using testing::all_logits;
using testing::demo_dir;
using testing::demo_ids;
using testing::error_of;
using testing::open_alone;

const std::vector<TokenId>& prefix() {
  static const std::vector<TokenId> kIds = {4093, 17, 300};
  return kIds;
}

class Prefix : public ::testing::Test {
 protected:
  Prefix() {
    for (const bool has_prefix : {false, true}) {
      QuantizeOptions options{.checkpoint = demo_dir(),
                              .calibration = demo_dir() / "calibration.txt",
                              .target = path(has_prefix)};
      options.recipe.calibration.samples = 2;
      if (has_prefix) options.recipe.calibration.prefix = prefix();
      ThreadPool pool(2);
      const QuantizeReport report = quantize_model(options, pool, silent());
      EXPECT_EQ(report.prefix.size(), has_prefix ? 3U : 0U);
    }
  }

  fs::path path(bool has_prefix) const { return folder_ / (has_prefix ? "with" : "without"); }
  std::unique_ptr<LocalModel> open(bool has_prefix, Mode mode) const {
    return open_alone(path(has_prefix), {.mode = mode});
  }

  testing::ScratchFolder folder_;
};

// In int4 both packages have the same weights.
TEST_F(Prefix, StandsBeforeWhatIsRead) {
  const auto with = open(true, Mode::kCpu), without = open(false, Mode::kCpu);
  const std::vector<TokenId> text = demo_ids(*with, "eval_stories.txt", 100);
  std::vector<TokenId> whole = prefix();
  whole.insert(whole.end(), text.begin(), text.end());
  std::vector<float> expected = all_logits(*without, whole);
  expected.erase(expected.begin(), expected.begin() + 3 * 4096);
  EXPECT_TRUE(all_logits(*with, text) == expected);
  // Another sequence of the same engine, and tokens one by one.
  EXPECT_TRUE(all_logits(*with, text) == expected);
  KvSequence sequence = with->engine.new_sequence();
  for (std::size_t i = 0; i < 5; ++i) {
    const auto logits = with->engine.decode(sequence, text[i]);
    EXPECT_TRUE(std::ranges::equal(logits, std::span(expected).subspan(i * 4096, 4096))) << i;
  }
  EXPECT_EQ(sequence.length(), 5);
}

TEST_F(Prefix, IsSeenByNobody) {
  for (const Mode mode : {Mode::kHybrid, Mode::kNpu, Mode::kCpu}) {
    const auto model = open(true, mode);
    EXPECT_EQ(model->info().context_length, 512 - 3);
    const std::vector<TokenId> prompt = demo_ids(*model, "eval_stories.txt", 40);
    const auto answer = [&](Generator& generator) {
      std::vector<TokenId> ids;
      while (!generator.done() && ids.size() < 12) ids.push_back(generator.next());
      return ids;
    };
    Generator generator(model->engine, {});
    EXPECT_EQ(generator.options().max_length, 512 - 3);
    generator.append(prompt);
    const std::vector<TokenId> first = answer(generator);
    EXPECT_EQ(generator.sequence().front(), prompt.front());
    // Taken back, even all of it, and read again.
    generator.rewind(static_cast<std::int64_t>(prompt.size()));
    EXPECT_EQ(answer(generator), first);
    generator.rewind(0);
    generator.append(prompt);
    EXPECT_EQ(answer(generator), first);
    // Up to the end of what is left of the context, not one more.
    KvSequence sequence = model->engine.new_sequence();
    const std::vector<TokenId> most(512 - 3, prompt.front());
    model->engine.prefill(sequence, most);
    EXPECT_EQ(sequence.length(), 512 - 3);
    const std::vector<TokenId> more(512 - 2, prompt.front());
    EXPECT_FALSE(error_of([&] { Generator(model->engine, {}).append(more); }).empty());
  }
}

// With the prefix as the first tokens that are never dropped.
TEST_F(Prefix, StaysWhenOldTokensAreDropped) {
  const auto with = open(true, Mode::kCpu), without = open(false, Mode::kCpu);
  const std::vector<TokenId> text = demo_ids(*with, "eval_stories.txt", 200);
  std::vector<TokenId> whole = prefix();
  whole.insert(whole.end(), text.begin(), text.end());
  const auto read = [](Engine& engine, KvSequence& sequence, std::span<const TokenId> ids) {
    std::vector<float> logits;
    engine.prefill_all(sequence, ids, [&](std::int64_t, std::span<const float> rows) {
      logits.insert(logits.end(), rows.begin(), rows.end());
    });
    return logits;
  };
  KvSequence a = with->engine.new_sequence(), b = without->engine.new_sequence();
  with->engine.evict_when_full(a, {.context = 60, .sinks = 4, .count = 10});
  without->engine.evict_when_full(b, {.context = 63, .sinks = 7, .count = 10});
  std::vector<float> expected = read(without->engine, b, whole);
  expected.erase(expected.begin(), expected.begin() + 3 * 4096);
  EXPECT_TRUE(read(with->engine, a, text) == expected);
  EXPECT_EQ(a.evicted(), 140);
  EXPECT_EQ(a.length(), 60);
  EXPECT_EQ(a.position(), 63);
  EXPECT_TRUE(std::ranges::equal(a.all_ids(), b.all_ids()));
}

// Frequencies that change with the length: all keys are computed anew, the prefix's too.
TEST(PrefixOfALongSequence, IsReadAgainWithTheOthers) {
  const testing::ScratchFolder folder;
  fs::copy(testing::fixture("models/fixtures/llama_dynamic"), folder / "c");
  const Json tokenizer = {
      {"model", {{"type", "BPE"}, {"vocab", {{"a", 10}, {"b", 11}}}, {"merges", Json::array()}}}};
  write_text_file(folder / "c/tokenizer.json", tokenizer.dump());
  ThreadPool pool(1);
  std::vector<std::unique_ptr<LocalModel>> models;
  const std::vector<TokenId> ids = {3, 9};
  for (const bool has_prefix : {false, true}) {
    QuantizeOptions options{.checkpoint = folder / "c",
                            .target = folder / (has_prefix ? "with" : "without")};
    options.recipe.rules = {exclude("*")};
    if (has_prefix) options.recipe.calibration.prefix = ids;
    quantize_model(options, pool, silent());
    models.push_back(open_alone(options.target, {.mode = Mode::kCpu}));
  }
  std::vector<TokenId> text;
  for (int i = 0; i < 60; ++i) text.push_back(5 + i % 50);
  std::vector<TokenId> whole = ids;
  whole.insert(whole.end(), text.begin(), text.end());
  // In one go, and token by token past the original context.
  const auto expected = testing::copy(models[0]->engine.prefill(
      *std::make_unique<KvSequence>(models[0]->engine.new_sequence()), whole));
  KvSequence sequence = models[1]->engine.new_sequence();
  std::vector<float> last;
  for (const TokenId id : text) last = testing::copy(models[1]->engine.decode(sequence, id));
  EXPECT_EQ(sequence.length(), 60);
  ASSERT_EQ(last.size(), expected.size());
  for (std::size_t i = 0; i < last.size(); ++i) EXPECT_NEAR(last[i], expected[i], 1e-2) << i;
}

}  // namespace
}  // namespace tandem
