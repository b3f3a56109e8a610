// Generators whose runs fail in the middle, for want of room in the KV cache or by what they are
// given: nothing of what failed is left behind, and nothing is read twice.
#include <gtest/gtest.h>

#include "runtime/chat.h"
#include "runtime/demo_package.h"

namespace tandem {
namespace {

using testing::copy;
using testing::demo_ids;
using testing::error_of;
using testing::open_demo;

using Tokens = std::vector<TokenId>;

constexpr const char* kNoRoom = "no more fit in its limit";

Tokens take(Generator& generator, int count) {
  Tokens ids;
  for (int i = 0; i < count && !generator.done(); ++i) ids.push_back(generator.next());
  return ids;
}

// The message of what is thrown; empty if nothing is.
std::string error_of_any(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

Tokens sequence(const Generator& generator, std::size_t index = 0) {
  const auto ids = generator.sequence(index);
  return {ids.begin(), ids.end()};
}

class GeneratorFailure : public ::testing::TestWithParam<Mode> {
 protected:
  // Runs of 8 rows, and a cache of so many blocks of 64 tokens.
  std::unique_ptr<LocalModel> open(std::int64_t blocks = 0) const {
    return open_demo(GetParam(), {.chunk = 8, .batch = 8, .kv_limit = blocks * block_bytes_});
  }

  std::int64_t block_bytes_ = open_demo(GetParam())->engine.kv_pool().block_bytes();
  std::unique_ptr<LocalModel> roomy_ = open();
  Tokens text_ = demo_ids(*roomy_, "eval_stories.txt", 400);
};

INSTANTIATE_TEST_SUITE_P(Modes, GeneratorFailure,
                         ::testing::Values(Mode::kFloat, Mode::kCpu, Mode::kHybrid),
                         [](const auto& test) { return std::string(to_string(test.param)); });

TEST_P(GeneratorFailure, TakesNoRowsOfAPromptThatFailed) {
  const auto tight = open(2);
  const auto prompt = std::span(text_).subspan(200, 40);
  Generator fresh(roomy_->engine, {});
  fresh.append(prompt);
  const Tokens want = take(fresh, 20);

  Generator generator(tight->engine, {});
  // 16 runs fit, the seventeenth fails.
  EXPECT_NE(error_of([&] { generator.append(std::span(text_).first(140)); }).find(kNoRoom),
            std::string::npos);
  EXPECT_TRUE(generator.sequence().empty());
  EXPECT_EQ(tight->engine.kv_pool().blocks_in_use(), 0);
  EXPECT_NE(error_of([&] { generator.next(); }).find("append a prompt first"), std::string::npos);
  // An id out of the vocabulary at the end of a prompt of several runs.
  Tokens bad(text_.begin(), text_.begin() + 30);
  bad.push_back(4096);
  EXPECT_NE(error_of([&] { generator.append(bad); }).find("token 30 is 4096"), std::string::npos);
  EXPECT_TRUE(generator.sequence().empty());
  generator.append(prompt);
  EXPECT_EQ(take(generator, 20), want);
}

TEST_P(GeneratorFailure, GoesOnWithAnAnswerAfterATurnThatFailed) {
  const auto tight = open(2);
  const auto prompt = std::span(text_).first(40);
  const auto turn = std::span(text_).subspan(100, 11);
  Tokens bad(turn.begin(), turn.end());
  bad.back() = -1;
  Generator want(roomy_->engine, {});
  Generator generator(tight->engine, {});
  for (Generator* each : {&want, &generator}) {
    each->append(prompt);
    take(*each, 5);
  }
  const auto fails = [&] {
    const Tokens before = sequence(generator);
    EXPECT_NE(error_of([&] { generator.append(std::span(text_).first(100)); }).find(kNoRoom),
              std::string::npos);
    EXPECT_NE(error_of([&] { generator.append(bad); }).find("is -1"), std::string::npos);
    EXPECT_EQ(sequence(generator), before);
  };
  fails();
  EXPECT_EQ(take(generator, 5), take(want, 5));
  fails();
  for (Generator* each : {&want, &generator}) each->append(turn);
  fails();
  EXPECT_EQ(take(generator, 15), take(want, 15));
  EXPECT_EQ(sequence(generator), sequence(want));
}

TEST_P(GeneratorFailure, AppendsToNoSequenceOfABatchWhereOneFails) {
  const auto tight = open(4);
  const std::vector<std::span<const TokenId>> long_ones = {std::span(text_).first(100),
                                                           std::span(text_).subspan(100, 60),
                                                           std::span(text_).subspan(160, 100)};
  const std::vector<std::span<const TokenId>> short_ones = {std::span(text_).first(5),
                                                            std::span(text_).subspan(100, 60),
                                                            std::span(text_).subspan(300, 30)};
  Generator fresh(roomy_->engine, {}, 3);
  fresh.append(short_ones);
  Generator generator(tight->engine, {}, 3);
  EXPECT_NE(error_of([&] { generator.append(long_ones); }).find(kNoRoom), std::string::npos);
  for (std::size_t s = 0; s < 3; ++s) EXPECT_TRUE(generator.sequence(s).empty());
  EXPECT_EQ(tight->engine.kv_pool().blocks_in_use(), 0);
  generator.append(short_ones);
  for (int i = 0; i < 3; ++i)
    EXPECT_TRUE(std::ranges::equal(generator.next_all(), fresh.next_all()));
}

// Ten sequences take two runs; the first run reads eight tokens, the second finds no room.
TEST_P(GeneratorFailure, ReadsNoTokenTwiceWhereTheSecondRunOfABatchFails) {
  constexpr std::size_t kSequences = 10;
  // All reach the end of their first block at once, and all but one get a second one.
  const auto tight = open(2 * kSequences);
  std::vector<std::span<const TokenId>> prompts;
  for (std::size_t s = 0; s < kSequences; ++s)
    prompts.push_back(std::span(text_).subspan(30 * s, 62));
  SearchOptions options;
  options.eos = {-1};
  Generator want(roomy_->engine, options, kSequences);
  Generator generator(tight->engine, options, kSequences);
  want.append(prompts);
  generator.append(prompts);
  KvSequence hog = tight->engine.new_sequence();
  hog.reserve(1);
  int failures = 0;
  for (int step = 0; step < 8; ++step) {
    for (std::string error = "again"; !error.empty();) {
      try {
        generator.next_all();
        error.clear();
      } catch (const Error& caught) {
        error = caught.what();
        EXPECT_NE(error.find(kNoRoom), std::string::npos) << error;
        ASSERT_LT(++failures, 4);
        EXPECT_EQ(tight->engine.kv_pool().blocks_in_use(),
                  static_cast<std::int64_t>(kSequences) + 1);
        // Twice in vain, and then there is room.
        if (failures == 2) hog = tight->engine.new_sequence();
      }
    }
    want.next_all();
    for (std::size_t s = 0; s < kSequences; ++s)
      ASSERT_EQ(sequence(generator, s), sequence(want, s)) << step << ' ' << s;
  }
  EXPECT_EQ(failures, 2);
}

// The engine itself: sequences are as long as before, and hold what they held.
TEST_P(GeneratorFailure, LeavesSequencesAsTheyWere) {
  const auto tight = open(3);
  Engine& engine = tight->engine;
  const auto first = std::span(text_).first(50);
  KvSequence a = engine.new_sequence();
  KvSequence b = engine.new_sequence();
  engine.prefill(a, first);
  engine.prefill(b, std::span(text_).first(20));
  const auto length_is_kept = [&](const std::function<void()>& action) {
    EXPECT_NE(error_of(action).find(kNoRoom), std::string::npos);
    EXPECT_EQ(a.length(), 50);
    EXPECT_EQ(b.length(), 20);
    EXPECT_EQ(engine.kv_pool().blocks_in_use(), 2);
  };
  const auto rest = std::span(text_).subspan(50, 150);
  KvSequence* const both[] = {&b, &a};
  const std::span<const TokenId> each[] = {rest.first(40), rest};
  length_is_kept([&] { engine.prefill(a, rest); });
  length_is_kept([&] { engine.prefill(a, rest, Phase::kDecode); });
  std::int64_t rows = 0;
  length_is_kept([&] {
    engine.prefill_all(a, rest, [&](std::int64_t, std::span<const float> run) {
      rows += static_cast<std::int64_t>(run.size()) / engine.info().vocabulary;
    });
  });
  EXPECT_GT(rows, 0);
  length_is_kept([&] { engine.prefill_batch(both, each); });
  // What the callback throws comes out as it is, and undoes the reading as well.
  EXPECT_THROW(engine.prefill_all(a, rest.first(20),
                                  [](std::int64_t first_row, std::span<const float>) {
                                    if (first_row > 0) throw std::runtime_error("enough");
                                  }),
               std::runtime_error);
  EXPECT_EQ(a.length(), 50);

  KvSequence alone = roomy_->engine.new_sequence();
  roomy_->engine.prefill(alone, first);
  EXPECT_EQ(copy(engine.prefill(a, rest.first(12))),
            copy(roomy_->engine.prefill(alone, rest.first(12))));
  EXPECT_EQ(copy(engine.decode(a, 3)), copy(roomy_->engine.decode(alone, 3)));
}

// A turn of a conversation that finds no room; after it, one that does.
TEST_P(GeneratorFailure, LetsAConversationGoOnAfterATurnThatFailed) {
  const auto tight = open(1);
  const auto answer = [](Chat& chat) { return chat.say("Spell the word cat.", 12).text; };
  Chat fresh(*roomy_, {});
  const std::string want = answer(fresh);
  Chat chat(*tight, {});
  std::string words;
  for (int i = 0; i < 60; ++i) words += "word ";
  EXPECT_NE(error_of([&] { chat.say(words, 5); }).find(kNoRoom), std::string::npos);
  EXPECT_TRUE(chat.messages().empty());
  EXPECT_EQ(answer(chat), want);
}

// Where the length decides the frequencies, the rows before a prompt are read anew for it; when it
// fails, what was said goes on as if nobody had asked.
// A penalty that takes the score of one sequence's token out of the floats.
TEST_P(GeneratorFailure, AppendsToNoSequenceOfABatchWhereOneChoiceFails) {
  SearchOptions options;
  options.do_sample = true;
  options.repetition_penalty = 1e-38F;
  options.seed = 1;
  // Prompts of one token whose own score is below zero, and of one whose score is high.
  std::optional<TokenId> fine;
  std::optional<TokenId> failing;
  for (TokenId id = 0; id < 2000 && !(fine && failing); ++id) {
    Generator alone(roomy_->engine, options);
    alone.append(Tokens{id});
    (error_of_any([&] { alone.next(); }).empty() ? fine : failing) = id;
  }
  ASSERT_TRUE(fine && failing);
  Generator generator(roomy_->engine, options, 2);
  const std::vector<Tokens> prompts = {{*fine}, {*failing}};
  generator.append(std::vector<std::span<const TokenId>>(prompts.begin(), prompts.end()));
  for (int time = 0; time < 2; ++time) {
    EXPECT_NE(error_of([&] { generator.next_all(); }).find("finite"), std::string::npos);
    EXPECT_EQ(sequence(generator, 0), prompts[0]);
    EXPECT_EQ(sequence(generator, 1), prompts[1]);
  }
}

TEST(GeneratorFailureOfLongSequences, TakesTheirFrequenciesBack) {
  for (const char* name : {"llama_dynamic", "phi3_longrope"}) {
    const fs::path folder = testing::fixture("models/fixtures") / name;
    const auto roomy = testing::open_alone(folder, {.engine = {.chunk = 8}});
    const std::int64_t block = roomy->engine.kv_pool().block_bytes();
    const auto tight = testing::open_alone(folder, {.engine = {.chunk = 8, .kv_limit = block}});
    const Tokens prompt = {5, 9, 14, 22, 31, 40, 3, 17, 60, 44, 12, 8};
    SearchOptions options;
    options.eos = {-1};
    Generator want(roomy->engine, options);
    Generator generator(tight->engine, options);
    for (Generator* each : {&want, &generator}) {
      each->append(prompt);
      take(*each, 4);
    }
    // Beyond the original context of either, and beyond a block.
    EXPECT_NE(error_of([&] { generator.append(Tokens(70, 7)); }).find(kNoRoom), std::string::npos);
    EXPECT_EQ(take(generator, 12), take(want, 12)) << name;
    generator.rewind(14);
    want.rewind(14);
    EXPECT_EQ(take(generator, 12), take(want, 12)) << name;
  }
}

// Dynamic NTK has no longest sequence; other kinds of scaling end with the context.
TEST(GeneratorFailureOfLongSequences, DynamicScalingHasNoEnd) {
  const auto model = testing::open_alone(testing::fixture("models/fixtures/llama_dynamic"),
                                         {.engine = {.chunk = 8}});
  ASSERT_EQ(model->info().context_length, 192);
  SearchOptions options;
  options.eos = {-1};
  Generator generator(model->engine, options);
  generator.append(Tokens(200, 7));
  EXPECT_EQ(take(generator, 4).size(), 4u);
  options.max_length = 205;
  Generator bounded(model->engine, options);
  bounded.append(Tokens(200, 7));
  take(bounded, 5);
  EXPECT_TRUE(bounded.done());
  const auto longrope = testing::open_alone(testing::fixture("models/fixtures/phi3_longrope"), {});
  options.max_length = longrope->info().context_length + 1;
  EXPECT_NE(error_of([&] { Generator(longrope->engine, options); }).find("cannot be greater than"),
            std::string::npos);
}

}  // namespace
}  // namespace tandem
