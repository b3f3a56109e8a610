// Generators: append, next and rewind with the semantics of ONNX Runtime GenAI.
#include "runtime/generator.h"

#include <gtest/gtest.h>

#include "runtime/demo_package.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::open_demo;

using Tokens = std::vector<TokenId>;

Tokens prompt() {
  return read_json_file(testing::demo_dir() / "reference.json")["prompt_ids"].get<Tokens>();
}

Tokens take(Generator& generator, int count) {
  Tokens ids;
  for (int i = 0; i < count && !generator.done(); ++i) ids.push_back(generator.next());
  return ids;
}

Tokens sequence(const Generator& generator) {
  return {generator.sequence().begin(), generator.sequence().end()};
}

class GeneratorTest : public ::testing::TestWithParam<Mode> {
 protected:
  std::unique_ptr<LocalModel> model_ = open_demo(GetParam());
};

INSTANTIATE_TEST_SUITE_P(Modes, GeneratorTest,
                         ::testing::Values(Mode::kFloat, Mode::kCpu, Mode::kHybrid),
                         [](const auto& test) { return std::string(to_string(test.param)); });

TEST_P(GeneratorTest, AppendsWhatItGenerates) {
  Generator generator(model_->engine, {});
  EXPECT_FALSE(generator.done());
  EXPECT_TRUE(generator.sequence().empty());
  EXPECT_EQ(generator.options().max_length, 512);
  EXPECT_EQ(generator.options().eos, (std::vector<std::int64_t>{4095, 4093}));
  EXPECT_TRUE(generator.is_end(4093));
  EXPECT_FALSE(generator.is_end(4094));
  Tokens expected = prompt();
  generator.append(expected);
  for (int i = 0; i < 5; ++i) {
    expected.push_back(generator.next());
    EXPECT_EQ(sequence(generator), expected);
  }
}

TEST_P(GeneratorTest, ReturnsTheEndTokenWithoutAppendingIt) {
  Generator generator(model_->engine, {});
  generator.append(model_->text.encode_chat("What is 10 plus 1?"));
  TokenId last = -1;
  std::size_t before = 0;
  while (!generator.done()) {
    before = generator.sequence().size();
    last = generator.next();
  }
  EXPECT_EQ(last, 4095);
  EXPECT_EQ(generator.sequence().size(), before);
  EXPECT_NE(error_of([&] { generator.next(); }).find("[generator] next: the answer has ended"),
            std::string::npos);
  // A second turn begins anew.
  generator.append(model_->text.encode_chat("Spell the word cat."));
  EXPECT_FALSE(generator.done());
  EXPECT_FALSE(take(generator, 3).empty());
}

TEST_P(GeneratorTest, StopsAtMaxLength) {
  const Tokens ids = prompt();
  const auto length = static_cast<std::int64_t>(ids.size());
  SearchOptions options;
  options.max_length = length + 3;
  Generator generator(model_->engine, options);
  generator.append(ids);
  EXPECT_EQ(take(generator, 100).size(), 3U);
  EXPECT_TRUE(generator.done());
  EXPECT_EQ(static_cast<std::int64_t>(generator.sequence().size()), options.max_length);
  EXPECT_NE(error_of([&] { generator.next(); }).find("max_length 16"), std::string::npos);
  EXPECT_NE(error_of([&] { generator.append(Tokens{1}); }).find("would exceed max_length (16)"),
            std::string::npos);
  // Rewinding to where it stands makes no room; one token less does.
  generator.rewind(options.max_length);
  EXPECT_TRUE(generator.done());
  const TokenId last = generator.sequence().back();
  generator.rewind(options.max_length - 1);
  EXPECT_EQ(take(generator, 100), Tokens{last});

  Generator full(model_->engine, options);
  Tokens longest = ids;
  longest.resize(static_cast<std::size_t>(options.max_length), 5);
  full.append(longest);
  EXPECT_TRUE(full.done());
}

TEST_P(GeneratorTest, EndsNoAnswerBeforeMinLength) {
  SearchOptions options;
  Generator brief(model_->engine, options);
  const Tokens ids = model_->text.encode_chat("What is 10 plus 1?");
  brief.append(ids);
  while (!brief.done()) brief.next();
  options.min_length = static_cast<std::int64_t>(brief.sequence().size()) + 10;
  Generator lengthy(model_->engine, options);
  lengthy.append(ids);
  while (!lengthy.done()) lengthy.next();
  EXPECT_GE(static_cast<std::int64_t>(lengthy.sequence().size()), options.min_length);
  // Up to where the brief one ended, they say the same.
  for (std::size_t i = 0; i < brief.sequence().size(); ++i)
    EXPECT_EQ(lengthy.sequence()[i], brief.sequence()[i]);
}

TEST_P(GeneratorTest, ContinuesAfterARewindAsBefore) {
  const Tokens ids = prompt();
  Generator generator(model_->engine, {});
  generator.append(ids);
  const Tokens first = take(generator, 12);
  // A second turn, long enough to be read as a prompt.
  const Tokens more = {633, 463, 258, 477, 44, 371, 278, 258, 939};
  generator.append(more);
  const Tokens second = take(generator, 12);
  const Tokens whole = sequence(generator);
  // Into the second answer, to the end of the second prompt, into the first answer, …
  const std::size_t turn = ids.size() + first.size() + more.size();
  for (const std::size_t length : {whole.size(), turn + 5, turn}) {
    generator.rewind(static_cast<std::int64_t>(length));
    EXPECT_EQ(generator.sequence().size(), length);
    take(generator, static_cast<int>(whole.size() - length));
    EXPECT_EQ(sequence(generator), whole) << length;
  }
  for (const std::size_t length : {ids.size() + 7, ids.size() + 1, ids.size()}) {
    generator.rewind(static_cast<std::int64_t>(length));
    const Tokens again = take(generator, static_cast<int>(ids.size() + first.size() - length));
    EXPECT_EQ(again, Tokens(first.end() - static_cast<std::ptrdiff_t>(again.size()), first.end()));
  }
  generator.rewind(0);
  EXPECT_NE(error_of([&] { generator.next(); }).find("append a prompt first"), std::string::npos);
  generator.append(ids);
  EXPECT_EQ(take(generator, 12), first);
}

// Greedy tokens hide small differences; temperature 1 and a fixed seed show the distribution.
TEST_P(GeneratorTest, RewindsToThePromptWithItsVeryLogits) {
  const Tokens ids = prompt();
  SearchOptions options;
  options.do_sample = true;
  options.top_k = 0;
  const auto draw = [&](std::int64_t seed, bool rewound) {
    options.seed = seed;
    options.temperature = 2;
    Generator generator(model_->engine, options);
    generator.append(ids);
    if (rewound) generator.rewind(static_cast<std::int64_t>(ids.size()));
    return generator.next();
  };
  for (std::int64_t seed = 0; seed < 25; ++seed) EXPECT_EQ(draw(seed, true), draw(seed, false));
}

TEST_P(GeneratorTest, DoesNotDisturbItsNeighbour) {
  const Tokens a_ids = prompt();
  const Tokens b_ids = model_->text.encode_chat("Spell the word cat.");
  const auto alone = [&](const Tokens& ids) {
    Generator generator(model_->engine, {});
    generator.append(ids);
    return take(generator, 10);
  };
  const Tokens want_a = alone(a_ids);
  const Tokens want_b = alone(b_ids);
  Generator a(model_->engine, {});
  Generator b(model_->engine, {});
  a.append(a_ids);
  b.append(b_ids);
  Tokens got_a, got_b;
  for (int i = 0; i < 10; ++i) {
    if (!a.done()) got_a.push_back(a.next());
    if (!b.done()) got_b.push_back(b.next());
  }
  EXPECT_EQ(got_a, want_a);
  EXPECT_EQ(got_b, want_b);
}

TEST_P(GeneratorTest, RefusesNonsenseAndGoesOn) {
  const auto makes = [&](SearchOptions options) {
    return error_of([&] { Generator(model_->engine, options); });
  };
  SearchOptions options;
  options.max_length = 513;
  EXPECT_NE(makes(options).find("max_length (513) cannot be greater than the model's context "
                                "length (512)"),
            std::string::npos);
  options = {};
  options.temperature = 0;
  EXPECT_NE(makes(options).find("[search] temperature"), std::string::npos);

  Generator generator(model_->engine, {});
  EXPECT_NE(error_of([&] { generator.next(); }).find("append a prompt first"), std::string::npos);
  EXPECT_NE(error_of([&] { generator.append(Tokens{}); }).find("no tokens given"),
            std::string::npos);
  EXPECT_NE(error_of([&] { generator.append(Tokens(513, 1)); }).find("would exceed max_length"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              generator.append(Tokens{1, 4096});
            }).find("token 1 is 4096: expected an id in [0, 4096)"),
            std::string::npos);
  EXPECT_NE(error_of([&] { generator.append(Tokens{-1}); }).find("token 0 is -1"),
            std::string::npos);
  EXPECT_NE(
      error_of([&] { generator.rewind(1); }).find("cannot rewind to 1 tokens, the sequence has 0"),
      std::string::npos);
  EXPECT_NE(error_of([&] { generator.rewind(-1); }).find("cannot rewind to -1"), std::string::npos);
  EXPECT_TRUE(generator.sequence().empty());

  // None of it left a trace.
  generator.append(prompt());
  const Tokens want = take(generator, 4);
  generator.rewind(static_cast<std::int64_t>(prompt().size()) + 2);
  error_of([&] { generator.append(Tokens{9999}); });
  EXPECT_EQ(take(generator, 2), Tokens(want.begin() + 2, want.end()));
}

TEST_P(GeneratorTest, RepeatsASampledAnswerForItsSeed) {
  const auto answer = [&](std::int64_t seed) {
    SearchOptions options;
    options.do_sample = true;
    options.temperature = 1.5F;
    options.seed = seed;
    Generator generator(model_->engine, options);
    generator.append(prompt());
    return take(generator, 20);
  };
  EXPECT_EQ(answer(1), answer(1));
  EXPECT_NE(answer(1), answer(2));
}

// In the modes with one set of weights. In hybrid mode the cache keeps what decode wrote of an
// answer.
TEST(Generator, ReadsAConversationInTurnsAsInOne) {
  for (const Mode mode : {Mode::kFloat, Mode::kCpu}) {
    const auto model = open_demo(mode);
    Generator turns(model->engine, {});
    turns.append(prompt());
    take(turns, 6);
    turns.append(Tokens{633, 463});
    Generator anew(model->engine, {});
    anew.append(sequence(turns));
    EXPECT_EQ(take(turns, 10), take(anew, 10));
    EXPECT_EQ(sequence(turns), sequence(anew));
  }
}

}  // namespace
}  // namespace tandem
