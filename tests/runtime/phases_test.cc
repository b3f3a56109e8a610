// Which programs read what: prompts of a few tokens, of a few rows and of whole chunks, single
// tokens that are read again, and several rows of the programs that write answers.
#include <gtest/gtest.h>

#include <cstring>

#include "runtime/demo_package.h"
#include "runtime/generator.h"

namespace tandem {
namespace {

using testing::all_logits;
using testing::copy;
using testing::demo_ids;
using testing::open_demo;

using Tokens = std::vector<TokenId>;

std::vector<float> prompt_logits(Engine& engine, std::span<const TokenId> ids,
                                 std::optional<Phase> phase = {}) {
  KvSequence sequence = engine.new_sequence();
  return copy(engine.prefill(sequence, ids, phase));
}

// A few tokens of a prompt wait for memory as an answer's do, and int4 weights are half the bytes.
TEST(Phases, ReadShortPromptsWithTheProgramsThatWriteAnswers) {
  const auto hybrid = open_demo(Mode::kHybrid);
  const auto cpu = open_demo(Mode::kCpu);
  const Tokens ids = demo_ids(*hybrid, "eval_stories.txt", 40);
  for (const std::size_t length : {1, 2, 7, 8}) {
    const auto prompt = std::span(ids).first(length);
    EXPECT_EQ(hybrid->engine.prompt_phase(static_cast<std::int64_t>(length)), Phase::kDecode);
    EXPECT_EQ(prompt_logits(hybrid->engine, prompt), prompt_logits(cpu->engine, prompt)) << length;
    EXPECT_EQ(all_logits(*hybrid, prompt), all_logits(*cpu, prompt)) << length;
    // Programs of the NPU read them as well, with other weights.
    EXPECT_NE(prompt_logits(hybrid->engine, prompt, Phase::kPrefill),
              prompt_logits(cpu->engine, prompt))
        << length;
  }
  for (const std::size_t length : {9, 10, 40}) {
    const auto prompt = std::span(ids).first(length);
    EXPECT_EQ(hybrid->engine.prompt_phase(static_cast<std::int64_t>(length)), Phase::kPrefill);
    EXPECT_EQ(prompt_logits(hybrid->engine, prompt),
              prompt_logits(hybrid->engine, prompt, Phase::kPrefill));
    EXPECT_NE(prompt_logits(hybrid->engine, prompt), prompt_logits(cpu->engine, prompt)) << length;
  }
  // Where both phases run alike there is nothing to choose.
  for (const std::int64_t length : {1, 8, 9})
    EXPECT_EQ(cpu->engine.prompt_phase(length), Phase::kPrefill);
}

// A prompt shorter than the chunk, or the end of a longer one, is read by programs of fewer rows.
TEST(Phases, GivePromptsTheSameBitsWithProgramsOfAnyRows) {
  const auto both = open_demo(Mode::kHybrid, {.chunk = 128});
  const auto whole = open_demo(Mode::kHybrid, {.chunk = 300});
  const auto small = open_demo(Mode::kHybrid, {.chunk = 32});
  const Tokens ids = demo_ids(*both, "eval_stories.txt", 300);
  const std::vector<float> want = all_logits(*whole, ids);
  const auto vocabulary = static_cast<std::size_t>(both->info().vocabulary);
  for (const std::size_t length : {9, 16, 17, 32, 33, 65, 112, 127, 128, 129, 160, 161, 256, 300}) {
    const auto prompt = std::span(ids).first(length);
    const std::vector<float> rows(want.begin(),
                                  want.begin() + static_cast<std::ptrdiff_t>(length * vocabulary));
    EXPECT_TRUE(all_logits(*both, prompt) == rows) << length;
    EXPECT_TRUE(all_logits(*small, prompt) == rows) << length;
  }
}

class PhasesOf : public ::testing::TestWithParam<Mode> {
 protected:
  std::unique_ptr<LocalModel> model_ = open_demo(GetParam(), {.chunk = 32, .batch = 4});
};

INSTANTIATE_TEST_SUITE_P(Modes, PhasesOf,
                         ::testing::Values(Mode::kFloat, Mode::kCpu, Mode::kHybrid),
                         [](const auto& test) { return std::string(to_string(test.param)); });

// As candidates of speculative decoding are checked: several rows of one sequence at once.
TEST_P(PhasesOf, ReadRowsOfAnAnswerAsTokenByToken) {
  Engine& engine = model_->engine;
  const Tokens ids = demo_ids(*model_, "eval_stories.txt", 60 + 70);
  const auto prompt = std::span(ids).first(60);
  KvSequence one = engine.new_sequence();
  engine.prefill(one, prompt);
  // Runs of one sequence that begin and end in the middle of its blocks, and of more rows than
  // decode reads at once.
  for (const std::size_t count : {1, 2, 5, 8, 9, 45}) {
    KvSequence many = one.fork(one.length());
    const auto part = std::span(ids).subspan(static_cast<std::size_t>(one.length()), count);
    std::vector<float> got, want;
    std::int64_t next = 0;
    engine.prefill_all(
        many, part,
        [&](std::int64_t first, std::span<const float> rows) {
          EXPECT_EQ(first, next);
          next += static_cast<std::int64_t>(rows.size()) / engine.info().vocabulary;
          got.insert(got.end(), rows.begin(), rows.end());
        },
        Phase::kDecode);
    for (const TokenId id : part) {
      const auto row = engine.decode(one, id);
      want.insert(want.end(), row.begin(), row.end());
    }
    EXPECT_TRUE(got == want) << count;
    EXPECT_TRUE(std::ranges::equal(many.ids(), one.ids()));
    // And the cache is the same: what follows is.
    EXPECT_EQ(copy(engine.decode(many, 7)), [&] {
      KvSequence fork = one.fork(one.length());
      return copy(engine.decode(fork, 7));
    }());
  }
}

// Draws at a high temperature tell distributions apart; greedy tokens hide small differences.
TEST_P(PhasesOf, ReadATokenAgainWithTheProgramsThatReadItFirst) {
  const Tokens ids = demo_ids(*model_, "eval_stories.txt", 40);
  SearchOptions options;
  options.do_sample = true;
  options.top_k = 0;
  options.temperature = 3;
  // Prompts that programs of either phase read.
  for (const std::size_t length : {5, 40})
    for (options.seed = 0; options.seed < 40; ++options.seed) {
      const auto draw = [&](bool rewinds) {
        Generator generator(model_->engine, options);
        generator.append(std::span(ids).first(length));
        if (rewinds) generator.rewind(static_cast<std::int64_t>(length));
        return generator.next();
      };
      EXPECT_EQ(draw(true), draw(false)) << length << ' ' << options.seed;
    }
  // And every token of an answer.
  Generator generator(model_->engine, {.eos = {-1}});
  generator.append(std::span(ids).first(12));
  for (int i = 0; i < 30; ++i) {
    const TokenId id = generator.next();
    generator.rewind(static_cast<std::int64_t>(generator.sequence().size()) - 1);
    ASSERT_EQ(generator.next(), id) << i;
  }
}

}  // namespace
}  // namespace tandem
