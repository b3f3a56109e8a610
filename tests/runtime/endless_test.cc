// Sequences that go on when their context is full, of every family, in every mode: what is left of
// the cache, and what the model still knows.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/logits.h"
#include "runtime/chat.h"
#include "runtime/demo_package.h"
#include "runtime/generator.h"

namespace tandem {
namespace {

using testing::copy;
using testing::demo_ids;
using testing::error_of;
using testing::open_demo;

using Tokens = std::vector<TokenId>;

Tokens take(Generator& generator, int count) {
  Tokens ids;
  for (int i = 0; i < count && !generator.done(); ++i) ids.push_back(generator.next());
  return ids;
}

// The first tokens and the last ones of a text of which `dropped` are missing in between.
Tokens without(std::span<const TokenId> ids, std::int64_t first, std::int64_t dropped) {
  Tokens kept(ids.begin(), ids.begin() + first);
  kept.insert(kept.end(), ids.begin() + first + dropped, ids.end());
  return kept;
}

// The bytes of all keys and values that a sequence holds.
std::vector<std::byte> contents(const KvSequence& sequence, const ModelInfo& info) {
  const KvView view = sequence.view();
  const auto element = size_of(view.dtype);
  const auto dim = static_cast<std::size_t>(info.head_dim);
  const std::size_t half = static_cast<std::size_t>(info.kv_heads) * dim * 64;
  std::vector<std::byte> all;
  for (std::int64_t layer = 0; layer < info.layers; ++layer)
    for (std::size_t b = 0; b < view.blocks.size(); ++b) {
      const std::byte* part = view.blocks[b] + layer * view.layer_bytes;
      const auto held = static_cast<std::size_t>(sequence.position()) - 64 * b;
      for (std::size_t i = 0; i < 2 * half; ++i)
        if ((i < half ? i : i / dim) % 64 < held)
          all.insert(all.end(), part + i * element, part + (i + 1) * element);
    }
  return all;
}

// Models of every kind of rotary embedding: scaled, of a part of each head, of some layers only, by
// other frequencies in long texts; with windows and without.
class EndlessFamily : public ::testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<LocalModel> model_ =
      testing::open_alone(testing::fixture("models/fixtures") / GetParam());
};

INSTANTIATE_TEST_SUITE_P(Families, EndlessFamily,
                         ::testing::Values("llama_rope", "llama_head_dim", "llama_yarn",
                                           "llama_dynamic", "qwen2_window", "qwen3", "gemma2",
                                           "mistral_window", "phi3_longrope", "chatglm", "smollm3"),
                         [](const auto& test) { return std::string(test.param); });

// The keys of the first layer, which depend on nothing but token and position, and its values.
TEST_P(EndlessFamily, HoldsTheKeysOfItsNewPositions) {
  Engine& engine = model_->engine;
  const ModelInfo& info = engine.info();
  // The longer one is beyond the context of training where frequencies change there.
  for (const std::int64_t context : {std::int64_t{40}, std::int64_t{100}}) {
    if (context > info.longest_sequence()) continue;
    const Eviction eviction{.context = context, .sinks = 5, .count = 7};
    Tokens ids;
    for (int i = 0; i < context + 7 * 6; ++i)
      ids.push_back(static_cast<TokenId>((i * i + 3 * i) % info.vocabulary));
    KvSequence sequence = engine.new_sequence();
    engine.evict_when_full(sequence, eviction);
    engine.prefill(sequence, ids);
    ASSERT_EQ(sequence.length(), context);
    ASSERT_EQ(sequence.evicted(), 7 * 6);
    KvSequence anew = engine.new_sequence();
    engine.prefill(anew, without(ids, 5, 7 * 6));
    EXPECT_TRUE(std::ranges::equal(sequence.ids(), anew.ids()));
    EXPECT_EQ(sequence.rotary_epoch(), anew.rotary_epoch());
    const auto elements = static_cast<std::size_t>(info.kv_heads * info.head_dim * 64);
    for (std::size_t b = 0; b < anew.view().blocks.size(); ++b) {
      const auto slots = std::min<std::size_t>(64, static_cast<std::size_t>(context) - 64 * b);
      std::vector<float> got(2 * elements), want(2 * elements);
      std::memcpy(got.data(), sequence.view().blocks[b], got.size() * 4);
      std::memcpy(want.data(), anew.view().blocks[b], want.size() * 4);
      for (std::size_t i = 0; i < elements; ++i)
        if (i % 64 < slots) {
          ASSERT_NEAR(got[i], want[i], 1e-5 * std::max(1.0F, std::fabs(want[i])))
              << context << " block " << b << " element " << i / 64 << " slot " << i % 64;
        }
      const auto dim = static_cast<std::size_t>(info.head_dim);
      for (std::size_t i = 0; i < elements; ++i)
        if (i / dim % 64 < slots) {
          ASSERT_EQ(got[elements + i], want[elements + i]);
        }
    }
  }
}

TEST_P(EndlessFamily, GoesOnForSeveralContexts) {
  SearchOptions options{.eos = {-1}};
  options.eviction = {.context = 40};
  Generator generator(model_->engine, options);
  EXPECT_EQ(generator.options().max_length, kLongestSequence);
  EXPECT_EQ(generator.options().eviction->count, 5);
  generator.append(Tokens{3, 4, 5});
  EXPECT_EQ(take(generator, 200).size(), 200U);
  EXPECT_EQ(generator.dropped_tokens(), 165);
}

// What a window no longer shows can be dropped: nothing changes but for rounding.
TEST(Endless, ChangesNothingForAModelWithWindows) {
  const auto model = testing::open_alone(testing::fixture("models/fixtures/mistral_window"));
  Engine& engine = model->engine;
  Tokens ids;
  for (int i = 0; i < 128; ++i) ids.push_back((i * i + 5 * i) % 67);
  const std::vector<float> want = testing::all_logits(engine, ids);
  KvSequence sequence = engine.new_sequence();
  engine.evict_when_full(sequence, {.context = 60, .sinks = 2, .count = 16});
  std::vector<float> got;
  engine.prefill_all(sequence, ids, [&](std::int64_t, std::span<const float> rows) {
    got.insert(got.end(), rows.begin(), rows.end());
  });
  EXPECT_GT(sequence.evicted(), 64);
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-3) << i;
}

class EndlessMode : public ::testing::TestWithParam<testing::ModeAndCache> {
 protected:
  std::unique_ptr<LocalModel> model_ = testing::open_demo(GetParam(), {.chunk = 32, .batch = 4});
  Tokens text_ = demo_ids(*model_, "eval_stories.txt", 2048);
};

INSTANTIATE_TEST_SUITE_P(Modes, EndlessMode, ::testing::ValuesIn(testing::kModesAndCaches),
                         [](const auto& test) { return to_string(test.param); });

// The cache depends on the text alone: however many tokens were read at once, and with whatever
// other sequences.
TEST_P(EndlessMode, ReadsATextInAnyPieces) {
  Engine& engine = model_->engine;
  const Eviction eviction{.context = 100, .sinks = 4, .count = 23};
  const auto ids = std::span(text_).first(330);
  const auto read = [&](std::size_t piece, std::vector<float>& logits) {
    KvSequence sequence = engine.new_sequence();
    engine.evict_when_full(sequence, eviction);
    for (std::size_t at = 0; at < ids.size(); at += piece)
      engine.prefill_all(
          sequence, ids.subspan(at, std::min(piece, ids.size() - at)),
          [&](std::int64_t, std::span<const float> rows) {
            logits.insert(logits.end(), rows.begin(), rows.end());
          },
          Phase::kPrefill);
    EXPECT_EQ(sequence.given(), 330);
    EXPECT_EQ(sequence.evicted(), eviction.dropped(330));
    return sequence;
  };
  std::vector<float> want;
  const KvSequence whole = read(ids.size(), want);
  for (const std::size_t piece : {std::size_t{1}, std::size_t{40}, std::size_t{101}}) {
    std::vector<float> logits;
    const KvSequence sequence = read(piece, logits);
    EXPECT_TRUE(logits == want) << piece;
    EXPECT_TRUE(std::ranges::equal(sequence.ids(), whole.ids()));
    EXPECT_TRUE(contents(sequence, engine.info()) == contents(whole, engine.info())) << piece;
  }
  // Beside a short one and one without an end of its own context.
  KvSequence a = engine.new_sequence(), b = engine.new_sequence(), c = engine.new_sequence();
  engine.evict_when_full(a, eviction);
  engine.evict_when_full(b, eviction);
  KvSequence* const all[] = {&a, &c, &b};
  const std::span<const TokenId> prompts[] = {ids, ids.first(150), ids.first(70)};
  engine.prefill_batch(all, prompts);
  EXPECT_TRUE(contents(a, engine.info()) == contents(whole, engine.info()));
  EXPECT_EQ(b.length(), 70);
  EXPECT_EQ(c.length(), 150);
  // And answers in batches, one of which begins with an eviction.
  for (std::size_t i = 0; i < 40; ++i) {
    KvSequence alone = a.fork(a.length());
    const TokenId next[] = {text_[330 + i], text_[150 + i], text_[70 + i]};
    const std::vector<float> expected = copy(engine.decode(alone, next[0]));
    const auto logits = engine.decode_batch(all, next);
    EXPECT_TRUE(std::ranges::equal(logits.first(expected.size()), expected)) << i;
  }
  EXPECT_EQ(b.length(), 110 - eviction.dropped(110));
}

// Several contexts long, each token by what is left of those before it; beside the same model that
// reads what is left anew after each eviction, as if nothing else had ever been.
TEST_P(EndlessMode, KnowsItsTextAsWellAsWhenItReadsTheRestAnew) {
  Engine& engine = model_->engine;
  const Eviction eviction{.context = 128, .sinks = 4, .count = 32};
  KvSequence sequence = engine.new_sequence();
  engine.evict_when_full(sequence, eviction);
  const auto vocabulary = static_cast<std::size_t>(engine.info().vocabulary);
  std::vector<double> losses;
  const auto score = [&](std::int64_t first, std::span<const float> rows) {
    for (std::size_t r = 0; r < rows.size() / vocabulary; ++r)
      if (const std::size_t next = static_cast<std::size_t>(first) + r + 1; next < text_.size())
        losses.push_back(negative_log_likelihood(rows.subspan(r * vocabulary, vocabulary),
                                                 static_cast<std::size_t>(text_[next])));
  };
  engine.prefill_all(sequence, text_, score, Phase::kPrefill);
  const std::vector<double> endless = std::exchange(losses, {});
  for (std::size_t at = 0; at < text_.size();) {
    const auto dropped = eviction.dropped(static_cast<std::int64_t>(at) + 1);
    KvSequence anew = engine.new_sequence();
    const Tokens left = without(std::span(text_).first(at), at == 0 ? 0 : 4, dropped);
    if (!left.empty()) engine.prefill(anew, left, Phase::kPrefill);
    const std::size_t count = std::min(text_.size() - at, 128 - left.size());
    engine.prefill_all(
        anew, std::span(text_).subspan(at, count),
        [&](std::int64_t first, std::span<const float> rows) {
          score(static_cast<std::int64_t>(at) + first, rows);
        },
        Phase::kPrefill);
    at += count;
  }
  ASSERT_EQ(endless.size(), losses.size());
  const auto perplexity = [](std::span<const double> of) {
    double sum = 0;
    for (const double loss : of) sum += loss;
    return std::exp(sum / static_cast<double>(of.size()));
  };
  const double got = perplexity(std::span(endless).subspan(128));
  const double want = perplexity(std::span(losses).subspan(128));
  std::cout << got << " endless, " << want << " read anew\n";
  EXPECT_NEAR(got / want, 1, 0.05);
  // Near the end as in the beginning.
  EXPECT_NEAR(perplexity(std::span(endless).last(800)) / perplexity(std::span(losses).last(800)), 1,
              0.05);
}

TEST_P(EndlessMode, WritesWhatItsTextLeavesInTheCache) {
  SearchOptions options{.eos = {-1}};
  options.logprobs = 0;
  options.eviction = {.context = 64, .sinks = 4, .count = 16};
  Generator generator(model_->engine, options);
  generator.append(std::span(text_).first(20));
  std::vector<float> values;
  for (int i = 0; i < 300; ++i) {
    generator.next();
    values.push_back(generator.last_choice().log_probability);
  }
  EXPECT_EQ(generator.sequence().size(), 320U);
  EXPECT_EQ(generator.dropped_tokens(), options.eviction->dropped(319));
  const Tokens whole(generator.sequence().begin(), generator.sequence().end());
  // What is dropped is not needed to take back what came since.
  const auto since = [&](std::int64_t length) {
    generator.rewind(length);
    Tokens all(whole.begin(), whole.begin() + length);
    for (std::size_t i = static_cast<std::size_t>(length); i < whole.size(); ++i) {
      all.push_back(generator.next());
      EXPECT_EQ(generator.last_choice().log_probability, values[i - 20]) << length << ' ' << i;
    }
    return all;
  };
  for (const std::int64_t length : {320, 319, 310, 305}) EXPECT_EQ(since(length), whole) << length;
  // Before anything was dropped, all is as it was.
  for (const std::int64_t length : {64, 63, 50, 21, 20}) EXPECT_EQ(since(length), whole) << length;
  // In between, the text that would be left is read anew.
  if (GetParam().mode == Mode::kHybrid) return;
  const auto dropped = options.eviction->dropped(200);
  const Tokens left = without(std::span(whole).first(200), 4, dropped);
  for (const bool twice : {false, true}) {
    if (twice) generator.rewind(250);
    generator.rewind(200);
    EXPECT_EQ(generator.read_tokens(), 4 + dropped);
    Generator anew(model_->engine, {.eos = {-1}});
    anew.append(left);
    const auto room = static_cast<int>(64 - left.size());
    EXPECT_EQ(take(generator, room), take(anew, room));
    EXPECT_GE(generator.dropped_tokens(), dropped);
    take(generator, 100);
  }
}

TEST_P(EndlessMode, HoldsAConversationWithoutAnEnd) {
  SearchOptions search;
  search.eviction = {.context = 96, .sinks = 4, .count = 24};
  Chat chat(*model_, search);
  EXPECT_EQ(chat.most_tokens(), 96);
  for (int turn = 0; turn < 12; ++turn) {
    const ChatTurn answer = chat.say("What is 10 plus 1?", 24);
    EXPECT_FALSE(answer.text.empty());
    // The conversation is not read from its beginning again.
    EXPECT_LT(answer.read_tokens, 40) << turn;
    EXPECT_EQ(
        answer.prompt_tokens + answer.tokens - (answer.finish_reason == FinishReason::kEndToken),
        chat.tokens());
  }
  EXPECT_GT(chat.dropped_tokens(), 96);
  EXPECT_LE(chat.tokens() - chat.dropped_tokens(), 97);
  // Taken back to where tokens are missing: no more than a context is read.
  for (int turn = 0; turn < 8; ++turn) chat.undo();
  EXPECT_LE(chat.regenerate(24).read_tokens, 96 + 40);
  const std::size_t messages = chat.messages().size();
  chat.say("What is 10 plus 1?", 24);
  EXPECT_EQ(chat.messages().size(), messages + 2);
}

TEST(Endless, NeedsNoMoreMemoryThanItsContext) {
  const std::int64_t bytes = open_demo(Mode::kCpu)->engine.kv_pool().block_bytes();
  const auto model = open_demo(Mode::kCpu, {.kv_limit = 2 * bytes});
  SearchOptions options{.eos = {-1}};
  options.eviction = {.context = 128, .sinks = 4, .count = 16};
  Generator generator(model->engine, options);
  generator.append(demo_ids(*model, "eval_stories.txt", 300));
  EXPECT_EQ(take(generator, 200).size(), 200U);
  // A second one has no room; when the first is gone, its prompt can be read.
  Generator second(model->engine, options);
  const Tokens prompt = demo_ids(*model, "eval_stories.txt", 100);
  EXPECT_FALSE(error_of([&] { second.append(prompt); }).empty());
  EXPECT_TRUE(second.sequence().empty());
  generator.rewind(0);
  second.append(prompt);
  EXPECT_EQ(take(second, 100).size(), 100U);
}

TEST(Endless, GoesOnAfterAReadThatFailed) {
  const auto roomy = open_demo(Mode::kCpu, {.chunk = 32});
  const std::int64_t bytes = roomy->engine.kv_pool().block_bytes();
  const auto tight = open_demo(Mode::kCpu, {.chunk = 32, .kv_limit = 3 * bytes});
  const Tokens text = demo_ids(*roomy, "eval_stories.txt", 400);
  SearchOptions options{.eos = {-1}};
  options.eviction = {.context = 128, .sinks = 4, .count = 80};
  Generator want(roomy->engine, options, 2), generator(tight->engine, options, 2);
  // A full context, which takes two blocks, and part of the third one.
  const std::span<const TokenId> prompts[] = {std::span(text).first(128),
                                              std::span(text).subspan(128, 40)};
  for (Generator* each : {&want, &generator}) each->append(prompts);
  // The first one drops tokens and reads on; then the second one wants another block.
  const std::span<const TokenId> more[] = {std::span(text).subspan(200, 20),
                                           std::span(text).subspan(220, 60)};
  EXPECT_NE(error_of([&] { generator.append(more); }).find("no more fit"), std::string::npos);
  EXPECT_EQ(generator.read_tokens(0), 4);
  EXPECT_EQ(generator.read_tokens(1), 40);
  for (int i = 0; i < 20; ++i) {
    const Tokens expected = [&] {
      const auto ids = want.next_all();
      return Tokens(ids.begin(), ids.end());
    }();
    EXPECT_TRUE(std::ranges::equal(generator.next_all(), expected)) << i;
  }
}

// Blocks that a fork shares have to be copied; where that fails, nothing was dropped.
TEST(Endless, DropsNothingWithoutRoomForCopies) {
  const std::int64_t bytes = open_demo(Mode::kCpu)->engine.kv_pool().block_bytes();
  const auto tight = open_demo(Mode::kCpu, {.kv_limit = 3 * bytes});
  const Tokens text = demo_ids(*tight, "eval_stories.txt", 400);
  KvSequence sequence = tight->engine.new_sequence();
  tight->engine.evict_when_full(sequence, {.context = 128, .sinks = 4, .count = 16});
  tight->engine.prefill(sequence, std::span(text).first(128));
  const auto before = contents(sequence, tight->info());
  {
    const KvSequence fork = sequence.fork(128);
    EXPECT_FALSE(error_of([&] { tight->engine.decode(sequence, 7); }).empty());
    EXPECT_TRUE(contents(sequence, tight->info()) == before);
    EXPECT_EQ(sequence.length(), 128);
    EXPECT_EQ(sequence.evicted(), 0);
  }
  tight->engine.decode(sequence, 7);
  EXPECT_EQ(sequence.length(), 113);
}

TEST(Endless, RefusesWhatLeavesNoRoom) {
  const auto model = open_demo(Mode::kFloat);
  const auto refusal = [&](const Eviction& eviction) {
    SearchOptions options;
    options.eviction = eviction;
    return error_of([&] { Generator(model->engine, options); });
  };
  EXPECT_EQ(refusal({.context = 513}),
            "[eviction] context: expected 1 to 512 tokens, the model's, got 513");
  EXPECT_NE(refusal({.context = -1}).find("got -1"), std::string::npos);
  for (const Eviction& eviction :
       {Eviction{.context = 64, .sinks = 32, .count = 32}, Eviction{.context = 64, .sinks = -1},
        Eviction{.context = 64, .count = -5}, Eviction{.context = 1}, Eviction{.sinks = 1 << 30},
        Eviction{.count = std::numeric_limits<std::int64_t>::max()}})
    EXPECT_NE(refusal(eviction).find("together fewer than the context of"), std::string::npos);
  // The least that goes on: one that stays, one that is dropped, one in between.
  SearchOptions options{.eos = {-1}};
  options.eviction = {.context = 3, .sinks = 1, .count = 1};
  Generator generator(model->engine, options);
  generator.append(Tokens{1, 2, 3, 4, 5});
  EXPECT_EQ(take(generator, 10).size(), 10U);
}

}  // namespace
}  // namespace tandem
