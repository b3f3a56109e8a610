// The pool of blocks and the lists that sequences are: counts, contents, limits, and who may write
// where.
#include "execute/kv_pool.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <numeric>
#include <set>
#include <thread>

#include "execute/run_graph.h"
#include "kernels/kernels.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::random_ids;
using testing::read_all;
using testing::small_graph;
using testing::small_kv_pool;
using testing::SmallWeights;

using Ids = std::vector<std::int32_t>;

Ids tokens(std::size_t count) {
  Ids ids(count);
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

std::shared_ptr<KvPool> pool_of(const KvShape& shape, std::int64_t blocks = 1000) {
  const std::int64_t bytes =
      shape.layers * kv_block_bytes(shape.kv_heads, shape.head_dim, shape.dtype);
  return std::make_shared<KvPool>(shape, blocks * bytes);
}

std::byte* block(const KvSequence& sequence, std::size_t i) { return sequence.view().blocks[i]; }

TEST(KvPool, KnowsTheSizeOfItsBlocks) {
  const KvPool pool({3, 2, 16, DType::kF16});
  EXPECT_EQ(pool.layer_bytes(), kv_block_bytes(2, 16, DType::kF16));
  EXPECT_EQ(pool.block_bytes(), 3 * pool.layer_bytes());
  EXPECT_EQ(KvPool({3, 2, 16, DType::kF32}).block_bytes(), 2 * pool.block_bytes());
  EXPECT_EQ(2 * KvPool({3, 2, 16, DType::kI8}).block_bytes(), pool.block_bytes());
  EXPECT_EQ(pool.blocks_in_use(), 0);
  EXPECT_EQ(pool.max_blocks(), default_kv_limit() / pool.block_bytes());
}

TEST(KvPool, RefusesShapesAndLimitsThatMakeNoSense) {
  EXPECT_EQ(error_of([] { KvPool({1, 1, 8, DType::kI32}); }),
            "[kv cache] expected F16, F32 or I8, got I32");
  for (const KvShape& shape : {KvShape{0, 1, 8}, KvShape{1, 0, 8}, KvShape{1, 1, 0}})
    EXPECT_EQ(
        error_of([&] { KvPool pool(shape); }),
        fmt::format("[kv cache] expected layers, heads and head_dim above 0, got {}, {} and {}",
                    shape.layers, shape.kv_heads, shape.head_dim));
  for (const std::int64_t limit : {std::int64_t{2047}, std::int64_t{0}, std::int64_t{-1}})
    EXPECT_EQ(error_of([&] { KvPool({1, 1, 8, DType::kF16}, limit); }),
              fmt::format("[kv cache] a limit of {} bytes: expected room for at least one block of "
                          "2048",
                          limit));
  EXPECT_EQ(KvPool({1, 1, 8, DType::kF16}, 2048).max_blocks(), 1);
}

TEST(KvPool, GivesOutAlignedBlocksOfItsOwnUpToTheLimit) {
  const auto pool = pool_of({2, 1, 8}, 5);
  std::set<BlockId> ids;
  for (int i = 0; i < 5; ++i) {
    const BlockId id = pool->allocate();
    EXPECT_TRUE(ids.insert(id).second);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(pool->data(id)) % 64, 0U);
    std::memset(pool->data(id), 0x10 + i, static_cast<std::size_t>(pool->block_bytes()));
  }
  // None overlaps another.
  std::set<int> marks;
  for (const BlockId id : ids) {
    const std::byte* data = pool->data(id);
    for (std::int64_t i = 0; i < pool->block_bytes(); ++i) ASSERT_EQ(data[i], data[0]);
    marks.insert(static_cast<int>(data[0]));
  }
  EXPECT_EQ(marks.size(), 5U);
  try {
    pool->allocate();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_STREQ(
        error.what(),
        "[kv cache] 5 blocks of 64 tokens and 0.0 MB are in use, no more fit in its limit");
  }
  pool->release(*ids.begin());
  EXPECT_EQ(pool->allocate(), *ids.begin());
}

TEST(KvPool, CountsReferences) {
  const auto pool = pool_of({1, 1, 8});
  const BlockId id = pool->allocate();
  EXPECT_FALSE(pool->is_shared(id));
  pool->share(id);
  EXPECT_TRUE(pool->is_shared(id));
  EXPECT_EQ(pool->blocks_in_use(), 1);
  pool->release(id);
  EXPECT_FALSE(pool->is_shared(id));
  EXPECT_EQ(pool->blocks_in_use(), 1);
  pool->release(id);
  EXPECT_EQ(pool->blocks_in_use(), 0);
}

// Each thread writes to the blocks of its own sequences, and to no other.
TEST(KvPool, SurvivesThreadsThatTakeAndGiveBack) {
  const auto pool = pool_of({2, 1, 8}, 400);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int round = 0; round < 50; ++round) {
        KvSequence sequence(pool);
        sequence.reserve(64 * (2 + (t + round) % 10));
        for (std::byte* data : sequence.view().blocks)
          std::memset(data, t, static_cast<std::size_t>(pool->block_bytes()));
        sequence.advance(tokens(70));
        KvSequence copy = sequence.fork(70);
        copy.reserve(100);
        std::memset(block(copy, 1), 0x55, static_cast<std::size_t>(pool->block_bytes()));
        for (const std::byte* data : sequence.view().blocks)
          for (std::int64_t i = 0; i < pool->block_bytes(); ++i)
            ASSERT_EQ(data[i], static_cast<std::byte>(t));
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(pool->blocks_in_use(), 0);
}

TEST(KvSequence, GrowsByBlocksAndGivesThemBack) {
  const auto pool = pool_of({3, 2, 16});
  {
    KvSequence sequence(pool);
    sequence.reserve(0);
    EXPECT_EQ(pool->blocks_in_use(), 0);
    sequence.reserve(1);
    EXPECT_EQ(pool->blocks_in_use(), 1);
    sequence.advance(tokens(1));
    sequence.reserve(63);
    EXPECT_EQ(pool->blocks_in_use(), 1);
    sequence.advance(tokens(63));
    sequence.reserve(1);
    EXPECT_EQ(pool->blocks_in_use(), 2);
    sequence.reserve(129);
    EXPECT_EQ(pool->blocks_in_use(), 4);
    const KvView view = sequence.view();
    ASSERT_EQ(view.blocks.size(), 4U);
    EXPECT_EQ(view.layer_bytes, pool->layer_bytes());
    EXPECT_EQ(view.dtype, DType::kF16);
    for (const std::byte* data : view.blocks)
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(data) % 64, 0U);
    sequence.advance(tokens(129));
    sequence.rewind(65);
    EXPECT_EQ(pool->blocks_in_use(), 2);
    sequence.rewind(64);
    EXPECT_EQ(pool->blocks_in_use(), 1);
    sequence.rewind(0);
    EXPECT_EQ(pool->blocks_in_use(), 0);
    sequence.reserve(200);
    EXPECT_EQ(pool->blocks_in_use(), 4);
  }
  EXPECT_EQ(pool->blocks_in_use(), 0);
}

TEST(KvSequence, CopiesASharedBlockOnlyWhenItIsWrittenTo) {
  const auto pool = pool_of({2, 1, 8});
  const auto bytes = static_cast<std::size_t>(pool->block_bytes());
  KvSequence a(pool);
  a.reserve(100);
  a.advance(tokens(100));
  std::memset(block(a, 1), 0x11, bytes);
  ASSERT_EQ(pool->blocks_in_use(), 2);

  KvSequence b = a.fork(100);
  KvSequence c = a.fork(64);  // ends with its block: nothing of it will be written to
  KvSequence d = a.fork(0);
  EXPECT_EQ(pool->blocks_in_use(), 2);
  EXPECT_EQ(b.length(), 100);
  EXPECT_EQ(c.view().blocks.size(), 1U);
  EXPECT_EQ(d.length(), 0);
  EXPECT_EQ(block(b, 1), block(a, 1));

  c.reserve(1);  // a second block of its own, the first still shared
  EXPECT_EQ(pool->blocks_in_use(), 3);
  EXPECT_EQ(block(c, 0), block(a, 0));
  EXPECT_NE(block(c, 1), block(a, 1));

  b.reserve(1);  // writes into the second block: a copy of it, with all layers
  EXPECT_EQ(pool->blocks_in_use(), 4);
  EXPECT_EQ(block(b, 0), block(a, 0));
  ASSERT_NE(block(b, 1), block(a, 1));
  EXPECT_EQ(std::memcmp(block(b, 1), block(a, 1), bytes), 0);
  const std::byte* own = block(a, 1);
  a.reserve(1);  // now alone with it
  EXPECT_EQ(block(a, 1), own);
  EXPECT_EQ(pool->blocks_in_use(), 4);

  // Rewinding into a shared block and writing there leaves the others alone.
  a.rewind(10);
  a.reserve(1);
  EXPECT_NE(block(a, 0), block(b, 0));
  EXPECT_EQ(block(b, 0), block(c, 0));
}

TEST(KvSequence, RemembersItsTokens) {
  KvSequence sequence(pool_of({1, 1, 8}));
  EXPECT_TRUE(sequence.ids().empty());
  sequence.reserve(5);
  sequence.advance(Ids{7, 8});
  sequence.advance(Ids{9, 3, 1});
  const auto ids = [](const KvSequence& of) { return Ids(of.ids().begin(), of.ids().end()); };
  EXPECT_EQ(ids(sequence), (Ids{7, 8, 9, 3, 1}));
  KvSequence copy = sequence.fork(3);
  copy.advance(Ids{5});
  sequence.rewind(1);
  EXPECT_EQ(ids(copy), (Ids{7, 8, 9, 5}));
  EXPECT_EQ(ids(sequence), (Ids{7}));
}

TEST(KvSequence, RefusesToRewindForward) {
  KvSequence sequence(pool_of({1, 1, 8}));
  sequence.reserve(3);
  sequence.advance(tokens(3));
  EXPECT_EQ(error_of([&] { sequence.rewind(4); }),
            "[kv cache] cannot rewind to 4 tokens, the sequence has 3");
  EXPECT_EQ(error_of([&] { sequence.rewind(-1); }),
            "[kv cache] cannot rewind to -1 tokens, the sequence has 3");
  EXPECT_EQ(error_of([&] { sequence.fork(4); }),
            "[kv cache] cannot share 4 tokens, the sequence has 3");
  EXPECT_EQ(error_of([&] { sequence.fork(-1); }),
            "[kv cache] cannot share -1 tokens, the sequence has 3");
  EXPECT_EQ(sequence.length(), 3);
}

TEST(KvSequence, KeepsItsPoolAlive) {
  KvSequence sequence(pool_of({1, 1, 8}));
  sequence.reserve(1);
  std::memset(block(sequence, 0), 1, static_cast<std::size_t>(kv_block_bytes(1, 8, DType::kF16)));
}

TEST(KvSequence, MovesWithItsBlocks) {
  const auto pool = pool_of({1, 1, 8});
  KvSequence a(pool), b(pool);
  a.reserve(65);
  a.advance(tokens(65));
  a.rewind(0);
  a.begin_epoch(3);
  a.reserve(65);
  a.advance(tokens(65));
  const std::byte* first = block(a, 0);
  KvSequence moved(std::move(a));
  EXPECT_EQ(block(moved, 0), first);
  EXPECT_EQ(moved.rotary_epoch(), 3);
  EXPECT_EQ(moved.fork(1).rotary_epoch(), 3);
  b.reserve(1);
  b = std::move(moved);
  EXPECT_EQ(block(b, 0), first);
  EXPECT_EQ(b.length(), 65);
  moved = KvSequence(pool);
  EXPECT_EQ(pool->blocks_in_use(), 2);
}

// The limit is reached when some of the blocks have been taken already.
TEST(KvSequence, IsAsBeforeWhereTheLimitIsReachedInTheMiddle) {
  const auto pool = pool_of({2, 1, 8}, 6);
  KvSequence a(pool);
  a.reserve(100);
  a.advance(tokens(100));
  std::memset(block(a, 1), 0x11, static_cast<std::size_t>(pool->block_bytes()));
  KvSequence b = a.fork(100);
  const std::vector<std::byte*> before(b.view().blocks.begin(), b.view().blocks.end());
  // A copy of the second block and four more: two in use, four left.
  EXPECT_EQ(error_of([&] { b.reserve(64 * 5); }),
            "[kv cache] 6 blocks of 64 tokens and 0.0 MB are in use, no more fit in its limit");
  EXPECT_EQ(pool->blocks_in_use(), 2);
  EXPECT_EQ(b.length(), 100);
  EXPECT_EQ(std::vector<std::byte*>(b.view().blocks.begin(), b.view().blocks.end()), before);
  EXPECT_EQ(block(b, 1), block(a, 1));
  // What fits still does.
  b.reserve(64 * 4 - 36);
  EXPECT_EQ(pool->blocks_in_use(), 6);
  EXPECT_NE(block(b, 1), block(a, 1));
  EXPECT_EQ(block(b, 1)[0], std::byte{0x11});
  EXPECT_THROW(a.reserve(64), Error);
  b.rewind(0);
  EXPECT_NO_THROW(a.reserve(64));
}

class KvContents : public ::testing::TestWithParam<SmallWeights> {
 protected:
  Executor make(const Graph& graph) {
    const std::int64_t selected = 128;
    return {graph, {Phase::kPrefill, 128}, devices_, cache_, {&selected, 1}};
  }

  ThreadPool pool_{2};
  NoPanelCache cache_;
  NpuHostDevice npu_{select_kernels(detect_cpu_features())};
  CpuDevice cpu_{select_kernels(detect_cpu_features())};
  std::vector<DeviceThreads> devices_ = {{&npu_, &pool_}, {&cpu_, &pool_}};
};

// What a model reads next does not depend on what a block held before.
TEST_P(KvContents, UsesStaleBlocksAsNewOnes) {
  const Graph graph = small_graph(GetParam());
  const Executor executor = make(graph);
  Arena arena = executor.make_arena();
  const auto kv = small_kv_pool();
  const auto ids = random_ids(90, 70);
  const Ids next = {7};
  KvSequence fresh(kv);
  const auto want = read_all(executor, arena, fresh, ids);
  const auto want_next = read_all(executor, arena, fresh, next);
  {
    KvSequence poisoned(kv);
    poisoned.reserve(512);
    for (std::byte* data : poisoned.view().blocks)  // NaN in either type
      std::memset(data, 0xFF, static_cast<std::size_t>(kv->block_bytes()));
  }
  KvSequence stale(kv);
  EXPECT_EQ(read_all(executor, arena, stale, ids), want);
  EXPECT_EQ(read_all(executor, arena, stale, next), want_next);
}

// A shared prefix, each sequence going on in its own way in turn: the bits of reading it all alone.
TEST_P(KvContents, KeepsForksApart) {
  const Graph graph = small_graph(GetParam());
  const Executor executor = make(graph);
  Arena arena = executor.make_arena();
  const auto kv = small_kv_pool();
  const auto ids = random_ids(220, 70);
  const auto prefix = std::span(ids).first(100);
  const auto tail = [&](std::size_t begin) { return std::span(ids).subspan(begin, 40); };
  const auto go_on = [&](KvSequence& sequence, std::size_t begin) {
    auto logits = read_all(executor, arena, sequence, tail(begin));
    const auto next = read_all(executor, arena, sequence, std::span(ids).subspan(begin, 1));
    logits.insert(logits.end(), next.begin(), next.end());
    return logits;
  };
  const auto alone = [&](std::size_t begin) {
    KvSequence sequence(kv);
    read_all(executor, arena, sequence, prefix);
    return go_on(sequence, begin);
  };
  const auto want_a = alone(100), want_b = alone(150);

  KvSequence a(kv);
  read_all(executor, arena, a, prefix);
  KvSequence b = a.fork(100);
  auto got_a = read_all(executor, arena, a, tail(100));
  auto got_b = read_all(executor, arena, b, tail(150));
  const auto next_a = read_all(executor, arena, a, std::span(ids).subspan(100, 1));
  const auto next_b = read_all(executor, arena, b, std::span(ids).subspan(150, 1));
  got_a.insert(got_a.end(), next_a.begin(), next_a.end());
  got_b.insert(got_b.end(), next_b.begin(), next_b.end());
  EXPECT_TRUE(got_a == want_a);
  EXPECT_TRUE(got_b == want_b);

  // Rewinding to the prefix and reading the other's tail gives the other's logits.
  a.rewind(100);
  EXPECT_TRUE(go_on(a, 150) == want_b);
}

INSTANTIATE_TEST_SUITE_P(Weights, KvContents,
                         ::testing::Values(SmallWeights::kFloat, SmallWeights::kInt8));

// A prefix takes positions and blocks, and is seen by nobody who counts tokens.
TEST(KvSequence, KeepsItsPrefix) {
  const auto pool = pool_of({1, 1, 8});
  KvSequence prefix(pool);
  prefix.reserve(3);
  prefix.advance(Ids{7, 8, 9});
  prefix.make_prefix();
  EXPECT_EQ(prefix.length(), 0);
  EXPECT_EQ(prefix.position(), 3);
  KvSequence sequence = prefix.fork(0);
  // 61 more tokens fill the block, one more takes another.
  sequence.reserve(61);
  EXPECT_NE(block(sequence, 0), block(prefix, 0)) << "it is written to";
  sequence.advance(tokens(61));
  EXPECT_EQ(pool->blocks_in_use(), 2);
  sequence.reserve(1);
  sequence.advance(Ids{5});
  EXPECT_EQ(pool->blocks_in_use(), 3);
  EXPECT_EQ(sequence.length(), 62);
  EXPECT_EQ(sequence.ids().front(), 0);
  EXPECT_EQ(Ids(sequence.all_ids().begin(), sequence.all_ids().begin() + 4), (Ids{7, 8, 9, 0}));
  const KvSequence part = sequence.fork(10);
  EXPECT_EQ(part.length(), 10);
  EXPECT_EQ(part.position(), 13);
  EXPECT_FALSE(error_of([&] { sequence.rewind(63); }).empty());
  sequence.rewind(0);
  EXPECT_EQ(sequence.position(), 3);
  EXPECT_EQ(sequence.all_ids().front(), 7);
  KvSequence moved = std::move(sequence);
  EXPECT_EQ(moved.length(), 0);
  EXPECT_EQ(moved.position(), 3);
  moved.clear();
  EXPECT_EQ(moved.position(), 0);
  EXPECT_EQ(moved.length(), 0);
}

// Rows 1, 3 and 70 of a tree behind 62 tokens become tokens 62, 63 and 64.
TEST(KvSequence, KeepsAPathOfATree) {
  for (const DType dtype : {DType::kF16, DType::kF32, DType::kI8}) {
    const KvShape shape{2, 2, 6, dtype};
    const auto pool = pool_of(shape);
    KvSequence sequence(pool);
    sequence.reserve(62);
    sequence.advance(std::vector<std::int32_t>(62));
    sequence.reserve(80);
    const auto bytes = static_cast<std::int64_t>(size_of(dtype));
    // By position, every byte of its keys and values.
    const auto for_bytes = [&](std::int64_t position, const auto& body) {
      std::byte* at = block(sequence, static_cast<std::size_t>(position / 64));
      for (std::int64_t layer = 0; layer < 2; ++layer, at += pool->layer_bytes())
        for (std::int64_t c = 0; c < 12; ++c)
          for (std::int64_t b = 0; b < bytes; ++b) {
            body(at[(c * 64 + position % 64) * bytes + b]);
            body(at[12 * 64 * bytes + ((c / 6 * 64 + position % 64) * 6 + c % 6) * bytes + b]);
          }
    };
    const auto fill = [&](std::int64_t position) {
      for_bytes(position, [&](std::byte& byte) { byte = static_cast<std::byte>(position); });
    };
    for (std::int64_t position = 0; position < 62 + 80; ++position) fill(position);
    const std::int32_t rows[] = {1, 3, 70}, ids[] = {5, 6, 7};
    sequence.accept(rows, ids);
    EXPECT_EQ(sequence.length(), 65);
    EXPECT_EQ(sequence.ids().back(), 7);
    // By position, the one whose bytes it has.
    const std::map<std::int64_t, std::int64_t> expected = {
        {61, 61}, {62, 63}, {63, 65}, {64, 132}, {65, 65}};
    for (const auto& entry : expected)
      for_bytes(entry.first, [&](std::byte byte) {
        ASSERT_EQ(byte, static_cast<std::byte>(entry.second)) << entry.first;
      });
    const std::int32_t backwards[] = {2, 1}, beyond[] = {200}, two[] = {0, 1};
    EXPECT_EQ(error_of([&] { sequence.accept(backwards, two); }),
              "[kv cache] row 1 after 2 of a tree: expected rows in order, one for each token");
    EXPECT_FALSE(error_of([&] { sequence.accept(beyond, beyond); }).empty());
    EXPECT_FALSE(error_of([&] { sequence.accept(two, beyond); }).empty());
  }
}

}  // namespace
}  // namespace tandem
