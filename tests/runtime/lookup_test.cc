// Prompt lookup: drafts from earlier text change nothing but the number of runs. With them and
// without, each token, greedy or drawn, comes from the same logits to the last bit and the same
// random number; so whole answers are compared, which says more than a test of distributions.
#include <gtest/gtest.h>

#include "runtime/complete.h"
#include "runtime/demo_package.h"
#include "runtime/prompt_lookup.h"

namespace tandem {
namespace {

using testing::demo_ids;
using testing::error_of;
using testing::open_demo;

using Tokens = std::vector<TokenId>;

TEST(LookUp, GoesOnAsTheTextDidBefore) {
  EXPECT_EQ(look_up(Tokens{1, 2, 3, 4, 5, 9, 1, 2, 3}, 3), (Tokens{4, 5, 9}));
  EXPECT_EQ(look_up(Tokens{1, 2, 3, 4, 5, 9, 1, 2, 3}, 0), Tokens{});
  // The longest run counts, of runs as long the latest.
  EXPECT_EQ(look_up(Tokens{1, 2, 3, 7, 5, 2, 3, 8, 1, 2, 3}, 1), Tokens{7});
  EXPECT_EQ(look_up(Tokens{2, 3, 7, 5, 2, 3, 8, 1, 2, 3}, 1), Tokens{8});
  // Eight tokens are as good as nine.
  EXPECT_EQ(look_up(Tokens{1, 2, 3, 4, 5,  6, 7, 8, 9, 20, 0, 2, 3, 4, 5,
                           6, 7, 8, 9, 21, 1, 2, 3, 4, 5,  6, 7, 8, 9},
                    1),
            Tokens{21});
  // A text that repeats its end goes on repeating it.
  EXPECT_EQ(look_up(Tokens{5, 1, 2, 3, 1, 2, 3}, 7), (Tokens{1, 2, 3, 1, 2, 3, 1}));
  EXPECT_EQ(look_up(Tokens{4, 4, 4}, 4), (Tokens{4, 4, 4, 4}));
  for (const Tokens& text :
       {Tokens{}, Tokens{1}, Tokens{1, 1}, Tokens{1, 2, 1}, Tokens{3, 1, 2, 1}})
    EXPECT_EQ(look_up(text, 4), Tokens{}) << text.size();
}

// An answer with all that is reported of it.
struct Answer {
  Tokens ids;
  std::vector<float> log_probabilities;
  LookupFigures figures;
};

Answer answer(Engine& engine, std::span<const TokenId> prompt, SearchOptions options,
              std::int64_t lookup, int tokens) {
  options.lookup = lookup;
  options.logprobs = 2;
  Generator generator(engine, options);
  generator.append(prompt);
  Answer answer;
  for (int i = 0; i < tokens && !generator.done(); ++i) {
    answer.ids.push_back(generator.next());
    for (const TokenProbability& token : generator.last_choice().likeliest)
      answer.log_probabilities.push_back(token.log_probability);
  }
  answer.figures = generator.lookup_figures();
  // Nothing of a draft counts that has not come yet.
  EXPECT_LE(generator.read_tokens(), static_cast<std::int64_t>(generator.sequence().size()));
  return answer;
}

void expect_same(const Answer& got, const Answer& want, const std::string& what) {
  EXPECT_EQ(got.ids, want.ids) << what;
  EXPECT_TRUE(got.log_probabilities == want.log_probabilities) << what;
}

class Lookup : public ::testing::TestWithParam<testing::ModeAndCache> {
 protected:
  std::unique_ptr<LocalModel> model_ = open_demo(GetParam(), {.chunk = 32});
  Tokens text_ = demo_ids(*model_, "eval_stories.txt", 400);
  // A story that is told twice, the second time only its beginning.
  Tokens twice_ = [this] {
    Tokens ids(text_.begin(), text_.begin() + 90);
    ids.insert(ids.end(), text_.begin(), text_.begin() + 20);
    return ids;
  }();
};

INSTANTIATE_TEST_SUITE_P(Modes, Lookup, ::testing::ValuesIn(testing::kModesAndCaches),
                         [](const auto& test) { return to_string(test.param); });

TEST_P(Lookup, WritesTheSameGreedily) {
  for (const bool repeats : {true, false}) {
    const auto prompt = repeats ? std::span<const TokenId>(twice_) : std::span(text_).first(30);
    const Answer want = answer(model_->engine, prompt, {.eos = {-1}}, 0, 120);
    EXPECT_EQ(want.figures.drafted, 0);
    EXPECT_EQ(want.figures.runs, 119);
    for (const std::int64_t lookup : {1, 3, 8, 40}) {
      const Answer got = answer(model_->engine, prompt, {.eos = {-1}}, lookup, 120);
      expect_same(got, want, fmt::format("{} {}", repeats, lookup));
      EXPECT_GT(got.figures.accepted, 0);
      EXPECT_GE(got.figures.drafted, got.figures.accepted);
      // Each run gives one token and those of its draft that are accepted; the last token that is
      // written needs no run behind it.
      EXPECT_GE(got.figures.runs + got.figures.accepted, 119);
      EXPECT_LE(got.figures.runs + got.figures.accepted, 120);
    }
  }
}

TEST_P(Lookup, DrawsTheSameWithEveryProcessor) {
  SearchOptions plain{.do_sample = true, .temperature = 0.8F, .eos = {-1}};
  SearchOptions hot{.do_sample = true, .temperature = 1.6F, .top_k = 0, .top_p = 0.95F};
  SearchOptions all = plain;
  all.min_p = 0.02F;
  all.repetition_penalty = 1.2F;
  all.no_repeat_ngram_size = 6;
  all.presence_penalty = 0.3F;
  all.frequency_penalty = 0.1F;
  all.logit_bias = {{text_[3], 2.0F}, {text_[5], -3.0F}};
  SearchOptions greedy = all;
  greedy.do_sample = false;
  hot.min_length = 125;
  std::int64_t accepted = 0;
  for (SearchOptions options : {plain, hot, all, greedy})
    for (options.seed = 0; options.seed < 4; ++options.seed) {
      const Answer want = answer(model_->engine, twice_, options, 0, 60);
      const Answer got = answer(model_->engine, twice_, options, 7, 60);
      expect_same(got, want, fmt::format("seed {}", options.seed));
      accepted += got.figures.accepted;
    }
  EXPECT_GT(accepted, 50);
}

TEST_P(Lookup, EndsWhereAnAnswerEnds) {
  // At max_length, whatever a draft has room for.
  for (std::int64_t more = 1; more < 24; more += more < 4 ? 1 : 5) {
    SearchOptions options{.eos = {-1}};
    options.max_length = static_cast<std::int64_t>(twice_.size()) + more;
    const Answer got = answer(model_->engine, twice_, options, 8, 100);
    EXPECT_EQ(static_cast<std::int64_t>(got.ids.size()), more);
    expect_same(got, answer(model_->engine, twice_, options, 0, 100), fmt::format("{}", more));
  }
  // At an end token that the draft holds: the sixth token of the story.
  SearchOptions options{.eos = {text_[25]}};
  const Answer ended = answer(model_->engine, twice_, options, 8, 100);
  expect_same(ended, answer(model_->engine, twice_, options, 0, 100), "end token");
  // At a stop text in the middle of a token, with pieces as they come, and by the caller.
  const std::string whole = complete(*model_, twice_, {.eos = {-1}}, 80).text;
  for (const int pieces : {1000, 5}) {
    std::vector<std::string> streamed[2];
    Completion completions[2];
    for (const int with : {0, 1}) {
      SearchOptions search{.eos = {-1}, .stop = {whole.substr(100, 7)}};
      search.lookup = with * 8;
      completions[with] = complete(*model_, twice_, search, 80, [&](std::string_view piece) {
        streamed[with].emplace_back(piece);
        return static_cast<int>(streamed[with].size()) < pieces;
      });
    }
    EXPECT_EQ(streamed[1], streamed[0]);
    EXPECT_EQ(completions[1].text, completions[0].text);
    EXPECT_EQ(completions[1].ids, completions[0].ids);
    EXPECT_EQ(completions[1].finish_reason, completions[0].finish_reason);
    EXPECT_EQ(completions[0].lookup.drafted, 0);
    if (pieces == 1000) {
      EXPECT_GT(completions[1].lookup.drafted, 0);
    }
  }
}

// With the rest of a draft in the cache.
TEST_P(Lookup, IsTakenBackAndAppendedTo) {
  const Tokens turn(text_.begin() + 200, text_.begin() + 215);
  for (int written = 1; written < 12; written += 3) {
    Tokens all[2];
    for (const std::int64_t lookup : {0, 8}) {
      SearchOptions options{.eos = {-1}};
      options.lookup = lookup;
      Generator generator(model_->engine, options);
      generator.append(twice_);
      for (int i = 0; i < written; ++i) generator.next();
      EXPECT_FALSE(error_of([&] { generator.append(Tokens{-1}); }).empty());
      generator.next();
      generator.append(turn);
      for (int i = 0; i < written; ++i) generator.next();
      generator.rewind(static_cast<std::int64_t>(generator.sequence().size()) - written / 2);
      for (int i = 0; i < 8; ++i) generator.next();
      generator.rewind(static_cast<std::int64_t>(twice_.size()));
      for (int i = 0; i < 30; ++i) generator.next();
      all[lookup / 8].assign(generator.sequence().begin(), generator.sequence().end());
    }
    EXPECT_EQ(all[1], all[0]) << written;
  }
}

TEST_P(Lookup, HelpsEachSequenceOfABatch) {
  const std::span<const TokenId> prompts[] = {twice_, std::span(text_).first(30),
                                              std::span(twice_).subspan(40)};
  const auto write = [&](std::int64_t lookup, LookupFigures& figures) {
    SearchOptions options{.do_sample = true, .temperature = 0.7F, .seed = 3, .eos = {text_[60]}};
    options.lookup = lookup;
    Generator generator(model_->engine, options, 3);
    generator.append(prompts);
    Tokens all;
    for (int i = 0; i < 80 && !generator.done(); ++i)
      for (const TokenId id : generator.next_all()) all.push_back(id);
    figures = generator.lookup_figures();
    return all;
  };
  LookupFigures plain, drafted;
  EXPECT_EQ(write(5, drafted), write(0, plain));
  EXPECT_GT(drafted.accepted, 0);
  EXPECT_LT(drafted.runs, plain.runs);
}

TEST_P(Lookup, FillsAContextWithoutAnEndAsBefore) {
  SearchOptions options{.eos = {-1}};
  options.eviction = {.context = 64, .sinks = 4, .count = 9};
  const Answer want = answer(model_->engine, twice_, options, 0, 200);
  const Answer got = answer(model_->engine, twice_, options, 8, 200);
  expect_same(got, want, "endless");
  EXPECT_GT(got.figures.accepted, 0);
}

// Tokens of a draft take blocks of the cache that the answer doesn't need yet.
TEST_P(Lookup, NeedsNoMoreMemory) {
  const std::int64_t bytes = model_->engine.kv_pool().block_bytes();
  // Two blocks, and that of a prefix.
  const std::size_t prefix = model_->model->prefix().size();
  const std::int64_t blocks = prefix > 0 ? 3 : 2;
  const auto tight = open_demo(GetParam(), {.chunk = 32, .kv_limit = blocks * bytes});
  const auto write = [&](std::int64_t lookup) {
    SearchOptions options{.eos = {-1}};
    options.lookup = lookup;
    Generator generator(tight->engine, options);
    generator.append(twice_);
    // One token more than fits is chosen, and not read.
    EXPECT_NE(error_of([&] {
                while (true) generator.next();
              }).find("no more fit"),
              std::string::npos);
    return Tokens(generator.sequence().begin(), generator.sequence().end());
  };
  const Tokens want = write(0);
  EXPECT_EQ(want.size(), 129U - prefix);
  EXPECT_EQ(write(16), want);
}

// Frequencies that depend on the length: no draft reaches beyond a change of them.
TEST(LookupOfAFamily, ChangesNoFrequenciesBeforeTheirTime) {
  for (const char* name : {"phi3_longrope", "llama_dynamic"}) {
    const auto model = testing::open_alone(testing::fixture("models/fixtures") / name);
    Tokens prompt;
    for (int i = 0; i < 36; ++i) prompt.push_back(3 + i % 5);
    SearchOptions options{.eos = {-1}};
    // Answers that repeat the prompt.
    for (int i = 3; i < 8; ++i) options.logit_bias[i] = 100;
    options.no_repeat_ngram_size = 0;
    const Answer want = answer(model->engine, prompt, options, 0, 60);
    const Answer got = answer(model->engine, prompt, options, 6, 60);
    expect_same(got, want, name);
    EXPECT_GT(got.figures.drafted, 0) << name;
  }
}

TEST(LookupOptions, AreInRange) {
  const auto model = open_demo(Mode::kFloat);
  for (const std::int64_t lookup : {-1, 65}) {
    SearchOptions options;
    options.lookup = lookup;
    EXPECT_EQ(
        error_of([&] { Generator(model->engine, options); }),
        fmt::format("[search] lookup: expected a number of tokens in [0, 64], got {}", lookup));
  }
}

}  // namespace
}  // namespace tandem
