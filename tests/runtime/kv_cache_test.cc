// The pool of blocks and the lists that sequences are: counts, contents, and who may write where.
#include "runtime/kv_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "kernels/kernels.h"
#include "runtime/demo_package.h"

namespace tandem {
namespace {

using testing::copy;
using testing::demo_ids;
using testing::error_of;
using testing::open_demo;

std::vector<TokenId> tokens(std::size_t count) {
  std::vector<TokenId> ids(count);
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

TEST(KvCache, GrowsByBlocksAndGivesThemBack) {
  KvPool pool(3, 2, 16);
  EXPECT_EQ(pool.block_bytes(), kv_block_bytes(2, 16, DType::kF16));
  EXPECT_EQ(KvPool(1, 2, 16, DType::kF32).block_bytes(), 2 * pool.block_bytes());
  EXPECT_EQ(pool.blocks_in_use(), 0);
  {
    KvSequence sequence(pool);
    sequence.reserve(0);
    EXPECT_EQ(pool.blocks_in_use(), 0);
    sequence.reserve(1);
    EXPECT_EQ(pool.blocks_in_use(), 3);
    sequence.advance(tokens(1));
    sequence.reserve(63);
    EXPECT_EQ(pool.blocks_in_use(), 3);
    sequence.advance(tokens(63));
    sequence.reserve(1);
    EXPECT_EQ(pool.blocks_in_use(), 6);
    sequence.reserve(129);
    EXPECT_EQ(pool.blocks_in_use(), 12);
    ASSERT_EQ(sequence.blocks().size(), 3U);
    for (const auto& layer : sequence.blocks()) {
      EXPECT_EQ(layer.size(), 4U);
      for (const std::byte* block : layer)
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block) % 64, 0U);
    }
    sequence.advance(tokens(129));
    sequence.rewind(65);
    EXPECT_EQ(pool.blocks_in_use(), 6);
    sequence.rewind(64);
    EXPECT_EQ(pool.blocks_in_use(), 3);
    sequence.rewind(0);
    EXPECT_EQ(pool.blocks_in_use(), 0);
    sequence.reserve(200);
    EXPECT_EQ(pool.blocks_in_use(), 12);
  }
  EXPECT_EQ(pool.blocks_in_use(), 0);
}

TEST(KvCache, CopiesASharedBlockOnlyWhenItIsWrittenTo) {
  KvPool pool(2, 1, 8);
  KvSequence a(pool);
  a.reserve(100);
  a.advance(tokens(100));
  std::memset(a.blocks()[0][1], 0x11, static_cast<std::size_t>(pool.block_bytes()));
  ASSERT_EQ(pool.blocks_in_use(), 4);

  KvSequence b = a.fork(100);
  KvSequence c = a.fork(64);  // ends with its block: nothing of it will be written to
  KvSequence d = a.fork(0);
  EXPECT_EQ(pool.blocks_in_use(), 4);
  EXPECT_EQ(b.length(), 100);
  EXPECT_EQ(c.blocks()[0].size(), 1U);
  EXPECT_EQ(d.length(), 0);
  EXPECT_EQ(b.blocks()[0][1], a.blocks()[0][1]);

  c.reserve(1);  // a second block of its own, the first still shared
  EXPECT_EQ(pool.blocks_in_use(), 6);
  EXPECT_EQ(c.blocks()[0][0], a.blocks()[0][0]);
  EXPECT_NE(c.blocks()[0][1], a.blocks()[0][1]);

  b.reserve(1);  // writes into the second block: a copy of it in each layer
  EXPECT_EQ(pool.blocks_in_use(), 8);
  EXPECT_EQ(b.blocks()[1][0], a.blocks()[1][0]);
  ASSERT_NE(b.blocks()[0][1], a.blocks()[0][1]);
  EXPECT_EQ(
      std::memcmp(b.blocks()[0][1], a.blocks()[0][1], static_cast<std::size_t>(pool.block_bytes())),
      0);
  const std::byte* own = a.blocks()[0][1];
  a.reserve(1);  // now alone with it
  EXPECT_EQ(a.blocks()[0][1], own);
  EXPECT_EQ(pool.blocks_in_use(), 8);

  // Rewinding into a shared block and writing there leaves the others alone.
  a.rewind(10);
  a.reserve(1);
  EXPECT_NE(a.blocks()[0][0], b.blocks()[0][0]);
  EXPECT_EQ(b.blocks()[0][0], c.blocks()[0][0]);
}

TEST(KvCache, RemembersItsTokens) {
  KvPool pool(1, 1, 8);
  KvSequence sequence(pool);
  EXPECT_TRUE(sequence.ids().empty());
  sequence.reserve(5);
  sequence.advance(std::vector<TokenId>{7, 8});
  sequence.advance(std::vector<TokenId>{9, 3, 1});
  const auto ids = [](const KvSequence& of) {
    return std::vector<TokenId>(of.ids().begin(), of.ids().end());
  };
  EXPECT_EQ(ids(sequence), (std::vector<TokenId>{7, 8, 9, 3, 1}));
  KvSequence copy = sequence.fork(3);
  copy.advance(std::vector<TokenId>{5});
  sequence.rewind(1);
  EXPECT_EQ(ids(copy), (std::vector<TokenId>{7, 8, 9, 5}));
  EXPECT_EQ(ids(sequence), (std::vector<TokenId>{7}));
}

TEST(KvCache, RefusesToRewindForward) {
  KvPool pool(1, 1, 8);
  KvSequence sequence(pool);
  sequence.reserve(3);
  sequence.advance(tokens(3));
  EXPECT_NE(error_of([&] {
              sequence.rewind(4);
            }).find("[kv cache] cannot rewind to 4 tokens, the sequence has 3"),
            std::string::npos);
  EXPECT_NE(error_of([&] { sequence.rewind(-1); }).find("rewind to -1"), std::string::npos);
  EXPECT_NE(error_of([&] { sequence.fork(4); }).find("rewind to 4"), std::string::npos);
  EXPECT_EQ(sequence.length(), 3);
}

TEST(KvCache, LivesUntilItsLastBlockIsLetGo) {
  std::shared_ptr<std::byte> block;
  {
    KvPool pool(1, 1, 8);
    block = pool.allocate();
  }
  std::memset(block.get(), 1, static_cast<std::size_t>(kv_block_bytes(1, 8, DType::kF16)));
}

// What a model reads next does not depend on what a block held before.
TEST(KvCache, UsesStaleBlocksAsNewOnes) {
  for (const Mode mode : {Mode::kFloat, Mode::kHybrid}) {
    const auto model = open_demo(mode);
    const auto ids = demo_ids(*model, "eval_stories.txt", 90);
    KvSequence fresh = model->new_sequence();
    const auto want = copy(model->prefill(fresh, ids));
    const auto want_next = copy(model->decode(fresh, 7));
    {
      KvSequence poisoned = model->new_sequence();
      poisoned.reserve(512);
      for (const auto& layer : poisoned.blocks())
        for (std::byte* block : layer)  // NaN in either type
          std::memset(block, 0xFF,
                      static_cast<std::size_t>(kv_block_bytes(2, 64, poisoned.dtype())));
    }
    KvSequence stale = model->new_sequence();
    EXPECT_EQ(copy(model->prefill(stale, ids)), want);
    EXPECT_EQ(copy(model->decode(stale, 7)), want_next);
  }
}

// A shared prefix, each sequence going on in its own way in turn: the bits of reading it all alone.
TEST(KvCache, KeepsForksApart) {
  for (const Mode mode : {Mode::kFloat, Mode::kHybrid}) {
    const auto model = open_demo(mode);
    const auto ids = demo_ids(*model, "eval_stories.txt", 220);
    const auto prefix = std::span(ids).first(100);
    const auto tail = [&](std::size_t begin) { return std::span(ids).subspan(begin, 40); };
    const auto alone = [&](std::size_t begin) {
      KvSequence sequence = model->new_sequence();
      model->prefill(sequence, prefix);
      std::vector<float> logits = copy(model->prefill(sequence, tail(begin)));
      const auto next = model->decode(sequence, ids[begin]);
      logits.insert(logits.end(), next.begin(), next.end());
      return logits;
    };
    const auto want_a = alone(100);
    const auto want_b = alone(150);

    KvSequence a = model->new_sequence();
    model->prefill(a, prefix);
    KvSequence b = a.fork(100);
    auto got_a = copy(model->prefill(a, tail(100)));
    auto got_b = copy(model->prefill(b, tail(150)));
    const auto next_a = copy(model->decode(a, ids[100]));
    const auto next_b = copy(model->decode(b, ids[150]));
    got_a.insert(got_a.end(), next_a.begin(), next_a.end());
    got_b.insert(got_b.end(), next_b.begin(), next_b.end());
    EXPECT_TRUE(got_a == want_a) << to_string(mode);
    EXPECT_TRUE(got_b == want_b) << to_string(mode);

    // Rewinding to the prefix and reading the other's tail gives the other's logits.
    a.rewind(100);
    got_a = copy(model->prefill(a, tail(150)));
    got_b.resize(got_a.size());
    EXPECT_TRUE(got_a == got_b) << to_string(mode);
  }
}

}  // namespace
}  // namespace tandem
