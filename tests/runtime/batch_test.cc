// Several sequences in one run: results bit-identical to each alone, whatever their number, lengths
// and order; padded matrices; and concurrent answers.
#include <gtest/gtest.h>

#include "runtime/demo_package.h"
#include "runtime/generator.h"
#include "runtime/padded_batch.h"

namespace tandem {
namespace {

using testing::all_logits;
using testing::copy;
using testing::demo_ids;
using testing::error_of;
using testing::open_demo;

using Tokens = std::vector<TokenId>;
using Prompts = std::vector<std::span<const TokenId>>;

class BatchTest : public ::testing::TestWithParam<Mode> {
 protected:
  // Parts of the stories of these lengths.
  Prompts prompts(const std::vector<std::size_t>& lengths) {
    if (text_.empty()) text_ = demo_ids(*model_, "eval_stories.txt", 600);
    Prompts result;
    std::size_t at = 0;
    for (const std::size_t length : lengths) {
      result.push_back(std::span(text_).subspan(at, length));
      at += length;
    }
    return result;
  }

  std::unique_ptr<LocalModel> model_ = open_demo(GetParam(), {.chunk = 32, .batch = 3});
  Tokens text_;
};

INSTANTIATE_TEST_SUITE_P(Modes, BatchTest,
                         ::testing::Values(Mode::kFloat, Mode::kCpu, Mode::kHybrid),
                         [](const auto& test) { return std::string(to_string(test.param)); });

TEST_P(BatchTest, GivesEachSequenceTheBitsThatItGetsAlone) {
  // Shorter than a run, as long, longer, one token; together they end in the middle of runs. In
  // hybrid mode up to 8 tokens are read by the programs that write answers.
  const Prompts all = prompts({5, 70, 1, 32, 33, 2, 100, 8, 9, 20});
  std::vector<KvSequence> alone, together;
  std::vector<KvSequence*> pointers;
  std::vector<float> want;
  for (const auto& prompt : all) {
    alone.push_back(model_->engine.new_sequence());
    const auto logits = model_->engine.prefill(alone.back(), prompt);
    want.insert(want.end(), logits.begin(), logits.end());
    together.push_back(model_->engine.new_sequence());
  }
  for (KvSequence& sequence : together) pointers.push_back(&sequence);
  EXPECT_TRUE(copy(model_->engine.prefill_batch(pointers, all)) == want);
  for (std::size_t s = 0; s < all.size(); ++s)
    EXPECT_TRUE(std::ranges::equal(together[s].ids(), all[s]));

  // Token by token: more sequences than decode reads in one run of hybrid mode.
  for (TokenId step = 0; step < 3; ++step) {
    Tokens next;
    want.clear();
    for (std::size_t s = 0; s < all.size(); ++s) {
      next.push_back(100 * step + static_cast<TokenId>(s));
      const auto logits = model_->engine.decode(alone[s], next.back());
      want.insert(want.end(), logits.begin(), logits.end());
    }
    EXPECT_TRUE(copy(model_->engine.decode_batch(pointers, next)) == want) << step;
  }
  // And a second prompt, behind what they hold.
  const Prompts more = prompts({3, 40, 31, 2, 1, 9, 64, 8, 7, 10});
  want.clear();
  for (std::size_t s = 0; s < all.size(); ++s) {
    const auto logits = model_->engine.prefill(alone[s], more[s]);
    want.insert(want.end(), logits.begin(), logits.end());
  }
  EXPECT_TRUE(copy(model_->engine.prefill_batch(pointers, more)) == want);
  EXPECT_TRUE(model_->engine.prefill_batch({}, {}).empty());
}

TEST_P(BatchTest, GivesEveryRowOfEachSequence) {
  const Prompts all = prompts({7, 50, 32, 1});
  std::vector<std::vector<float>> got(all.size());
  std::vector<KvSequence> sequences;
  for (std::size_t s = 0; s < all.size(); ++s) sequences.push_back(model_->engine.new_sequence());
  std::vector<KvSequence*> pointers;
  for (KvSequence& sequence : sequences) pointers.push_back(&sequence);
  const auto vocabulary = static_cast<std::size_t>(model_->info().vocabulary);
  model_->engine.prefill_batch_all(
      pointers, all, [&](std::size_t s, std::int64_t first, std::span<const float> rows) {
        EXPECT_EQ(static_cast<std::size_t>(first), got[s].size() / vocabulary);
        got[s].insert(got[s].end(), rows.begin(), rows.end());
      });
  for (std::size_t s = 0; s < all.size(); ++s)
    EXPECT_TRUE(got[s] == all_logits(*model_, all[s])) << s;
}

TEST_P(BatchTest, RefusesBatchesThatAreNone) {
  KvSequence a = model_->engine.new_sequence();
  KvSequence b = model_->engine.new_sequence();
  const Tokens ids = {1, 2, 3};
  const Tokens bad = {1, 4096};
  const auto prefill = [&](std::vector<KvSequence*> sequences, Prompts all) {
    return error_of([&] { model_->engine.prefill_batch(sequences, all); });
  };
  EXPECT_NE(prefill({&a, &a}, {ids, ids}).find("must differ"), std::string::npos);
  EXPECT_NE(prefill({&a, nullptr}, {ids, ids}).find("must differ"), std::string::npos);
  EXPECT_NE(prefill({&a, &b}, {ids}).find("2 sequences for tokens of 1"), std::string::npos);
  EXPECT_NE(prefill({&a, &b}, {ids, {}}).find("no tokens to read"), std::string::npos);
  EXPECT_NE(prefill({&a, &b}, {ids, bad}).find("token 1 is 4096"), std::string::npos);
  const std::vector<KvSequence*> twice = {&a, &a};
  EXPECT_NE(error_of([&] { model_->engine.decode_batch(twice, Tokens{1, 2}); }).find("must differ"),
            std::string::npos);
  EXPECT_EQ(a.length(), 0);
  EXPECT_EQ(b.length(), 0);
}

TEST_P(BatchTest, ContinuesPromptsAsEachAlone) {
  std::vector<Tokens> questions;
  for (const char* text : {"What is 10 plus 1?", "Spell the word cat.", "Tell me a story."})
    questions.push_back(model_->text.encode_chat(text));
  questions.push_back(demo_ids(*model_, "eval_stories.txt", 75));
  SearchOptions options;
  options.max_length = 90;
  std::vector<Tokens> want;
  std::vector<bool> ended;
  for (const Tokens& ids : questions) {
    Generator generator(model_->engine, options);
    generator.append(ids);
    while (!generator.done()) generator.next();
    want.emplace_back(generator.sequence().begin(), generator.sequence().end());
    ended.push_back(want.back().size() < 90);
  }
  EXPECT_TRUE(ended[0] && ended[1] && !ended[3]);

  // From a padded matrix, with either side.
  const Prompts ragged(questions.begin(), questions.end());
  for (const PaddingSide side : {PaddingSide::kLeft, PaddingSide::kRight}) {
    const PaddedBatch padded = pad(ragged, 4093, side);
    Generator generator(model_->engine, options, questions.size(), 4000);
    generator.append(unpad(padded.ids, padded.length, padded.mask));
    EXPECT_EQ(generator.size(), questions.size());
    std::vector<Tokens> given(questions.size());
    while (!generator.done()) {
      const std::vector<bool> before = {generator.done(0), generator.done(1), generator.done(2),
                                        generator.done(3)};
      const auto ids = generator.next_all();
      ASSERT_EQ(ids.size(), questions.size());
      for (std::size_t r = 0; r < ids.size(); ++r) {
        if (before[r]) {
          EXPECT_EQ(ids[r], 4000);
        } else {
          given[r].push_back(ids[r]);
        }
      }
    }
    for (std::size_t r = 0; r < questions.size(); ++r) {
      EXPECT_TRUE(std::ranges::equal(generator.sequence(r), want[r])) << r;
      const std::size_t answer = want[r].size() - questions[r].size();
      EXPECT_EQ(given[r].size(), answer + (ended[r] ? 1 : 0)) << r;
      if (ended[r]) {
        EXPECT_EQ(given[r].back(), 4095);
      }
    }
    EXPECT_NE(error_of([&] { generator.next_all(); }).find("all 4 answers have ended"),
              std::string::npos);
  }
  EXPECT_EQ(Generator(model_->engine, {}, 2).pad(), 4093);
}

TEST_P(BatchTest, RefusesPromptsThatDoNotFit) {
  SearchOptions options;
  options.max_length = 10;
  const Prompts all = prompts({10, 11});
  Generator two(model_->engine, options, 2);
  EXPECT_NE(error_of([&] {
              two.append(all);
            }).find("row 1: 11 tokens given after 0: the sequence would exceed max_length (10)"),
            std::string::npos);
  EXPECT_NE(error_of([&] { two.append(Prompts{all[0], {}}); }).find("row 1: append: no tokens"),
            std::string::npos);
  EXPECT_NE(error_of([&] { two.append(std::span(all).first(1)); }).find("1 prompts for 2"),
            std::string::npos);
  EXPECT_NE(error_of([&] { two.next_all(); }).find("append a prompt first"), std::string::npos);
  EXPECT_TRUE(two.sequence(0).empty());
  Generator full(model_->engine, options);
  full.append(std::span(all).first(1));
  EXPECT_TRUE(full.done());
  EXPECT_NE(error_of([&] { Generator(model_->engine, options, 0); }).find("at least one sequence"),
            std::string::npos);
}

// What is of one sequence only says so.
TEST_P(BatchTest, RefusesToActOnOneOfSeveralSequences) {
  Generator two(model_->engine, {}, 2);
  const Prompts all = prompts({10, 11});
  two.append(all);
  const std::string only = "expected one sequence, this has 2";
  EXPECT_NE(error_of([&] { two.rewind(3); }).find("rewind: " + only), std::string::npos);
  EXPECT_NE(error_of([&] { two.next(); }).find("next: " + only), std::string::npos);
  EXPECT_NE(error_of([&] { two.append(all[0]); }).find("append: " + only), std::string::npos);
  EXPECT_EQ(two.sequence(0).size(), 10U);
  EXPECT_EQ(two.sequence(1).size(), 11U);
  EXPECT_EQ(two.next_all().size(), 2U);
}

TEST(LoadModel, RefusesBatchesOfNoSize) {
  for (const std::int64_t batch : {0, -1, 4097}) {
    EXPECT_NE(error_of([&] {
                open_demo(Mode::kFloat, {.batch = batch});
              }).find(fmt::format("batch: expected 1 to 4096 sequences, got {}", batch)),
              std::string::npos);
  }
}

Tokens joined(const Prompts& rows) {
  Tokens all;
  for (const auto& row : rows) {
    all.insert(all.end(), row.begin(), row.end());
    all.push_back(-1);
  }
  return all;
}

TEST(PaddedBatch, TakesPaddingAway) {
  const Tokens left = {0, 0, 7, 5, 0, 6, 1, 2, 3};
  EXPECT_EQ(joined(unpad(left, 3, 0, PaddingSide::kLeft)),
            (Tokens{7, -1, 5, 0, 6, -1, 1, 2, 3, -1}));
  const Tokens right = {7, 0, 0, 0, 5, 0};
  EXPECT_EQ(joined(unpad(right, 3, 0, PaddingSide::kRight)), (Tokens{7, -1, 0, 5, -1}));
  // A mask tells a prompt's own zeros from padding, and needs no side.
  const std::vector<std::int64_t> mask = {0, 1, 1, 1, 1, 0, 0, 1, 0};
  EXPECT_EQ(joined(unpad(left, 3, mask)), (Tokens{0, 7, -1, 5, 0, -1, 2, -1}));
  EXPECT_TRUE(unpad({}, 4, 0, PaddingSide::kLeft).empty());

  const Prompts rows = unpad(left, 3, mask);
  const PaddedBatch batch = pad(rows, 9, PaddingSide::kLeft);
  EXPECT_EQ(batch.length, 2);
  EXPECT_EQ(batch.ids, (Tokens{0, 7, 5, 0, 9, 2}));
  EXPECT_EQ(batch.mask, (std::vector<std::int64_t>{1, 1, 1, 1, 0, 1}));
  EXPECT_EQ(pad(rows, 9, PaddingSide::kRight).ids, (Tokens{0, 7, 5, 0, 2, 9}));
  EXPECT_EQ(pad({}, 9, PaddingSide::kRight).length, 0);
}

TEST(PaddedBatch, RefusesWhatIsNoBatch) {
  const Tokens ids = {1, 2, 3, 4, 5, 6};
  using Mask = std::vector<std::int64_t>;
  const auto masked = [&](std::int64_t length, const Mask& mask) {
    return error_of([&] { unpad(ids, length, mask); });
  };
  EXPECT_NE(masked(4, Mask(6, 1)).find("6 ids cannot be cut in rows of 4"), std::string::npos);
  EXPECT_NE(masked(0, Mask(6, 1)).find("rows of 0"), std::string::npos);
  EXPECT_NE(masked(3, Mask(5, 1)).find("expected 6 entries"), std::string::npos);
  EXPECT_NE(masked(3, {1, 1, 1, 1, 0, 1}).find("row 1, column 1: padding between tokens"),
            std::string::npos);
  EXPECT_NE(masked(3, {1, 1, 2, 1, 1, 1}).find("row 0, column 2: expected 0 or 1, got 2"),
            std::string::npos);
  EXPECT_NE(masked(3, {1, 1, 1, 0, 0, 0}).find("row 1: nothing but padding"), std::string::npos);
  EXPECT_NE(error_of([&] {
              unpad(Tokens{3, 3}, 2, 3, PaddingSide::kRight);
            }).find("row 0: nothing but padding"),
            std::string::npos);
}

}  // namespace
}  // namespace tandem
