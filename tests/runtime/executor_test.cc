// Executors: memory handed on between segments without harm, several sequences in one batch, and
// the limits of a run.
#include "runtime/executor.h"

#include <gtest/gtest.h>

#include <cmath>

#include "devices/small_graph.h"
#include "runtime/kv_cache.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::PlainExecutor;
using testing::random_ids;
using testing::small_graph;
using testing::SmallSizes;
using testing::SmallWeights;

constexpr SmallWeights kKinds[] = {SmallWeights::kFloat, SmallWeights::kInt4, SmallWeights::kInt8};

class ExecutorTest : public ::testing::Test {
 protected:
  CompileContext context(std::int64_t rows, std::int64_t selected) {
    return {pool_, cache_, rows, selected};
  }
  KvPool new_kv_pool(DType dtype = DType::kF16) const {
    return {sizes_.layers, sizes_.kv_heads, sizes_.head_dim, dtype};
  }

  SmallSizes sizes_;
  ThreadPool pool_{2};
  NoPackedCache cache_;
  NpuHostDevice npu_{select_kernels(detect_cpu_features()), 24};
  CpuDevice cpu_{select_kernels(detect_cpu_features())};
  std::vector<const Device*> devices_ = {&npu_, &cpu_};
};

// Reads `ids` after what is in `sequence`, and returns the logits of all rows.
template <typename AnyExecutor>
std::vector<float> read(AnyExecutor& executor, ThreadPool& pool, KvSequence& sequence,
                        std::span<const std::int32_t> ids) {
  const auto rows = static_cast<std::int64_t>(ids.size());
  sequence.reserve(rows);
  const SequenceSlice slice{0, rows, sequence.length(), sequence.blocks(), sequence.dtype()};
  std::vector<std::int32_t> selected;
  for (std::int64_t r = 0; r < rows; ++r) selected.push_back(static_cast<std::int32_t>(r));
  const auto logits = executor.run(pool, ids, {&slice, 1}, selected);
  sequence.advance(ids);
  return {logits.begin(), logits.end()};
}

TEST_F(ExecutorTest, HandsMemoryOnWithoutHarm) {
  const auto ids = random_ids(24, sizes_.vocabulary);
  for (const SmallWeights kind : kKinds) {
    const Graph graph = small_graph(kind);
    KvPool kv = new_kv_pool();
    Executor executor(graph, Phase::kPrefill, devices_, context(24, 24));
    PlainExecutor plain(graph, Phase::kPrefill, devices_, context(24, 24));
    std::int64_t floats = 0;
    for (const Value& value : graph.values()) floats += 24 * value.width;
    EXPECT_LT(executor.activation_bytes(), 4 * floats * 2 / 3);
    EXPECT_EQ(executor.max_rows(), 24);
    for (const std::size_t rows : {24, 5, 1}) {
      KvSequence a(kv), b(kv);
      const auto part = std::span(ids).first(rows);
      const auto want = read(plain, pool_, b, part);
      for (const float logit : want) ASSERT_TRUE(std::isfinite(logit));
      EXPECT_EQ(read(executor, pool_, a, part), want);
    }
  }
}

TEST_F(ExecutorTest, GivesRowsOfABatchTheBitsOfEachSequenceAlone) {
  struct Part {
    std::int64_t before, rows;  // tokens read already, and in this batch
  };
  // A fresh prompt, one token within a block, one that begins a block, a run across a boundary.
  const std::vector<Part> parts = {{0, 5}, {10, 1}, {64, 1}, {60, 9}, {0, 1}, {127, 3}};
  for (const SmallWeights kind : kKinds)
    for (const DType dtype : {DType::kF16, DType::kF32}) {
      const Graph graph = small_graph(kind);
      KvPool kv = new_kv_pool(dtype);
      Executor executor(graph, Phase::kPrefill, devices_, context(24, 24));
      std::vector<KvSequence> alone, together;
      std::vector<std::int32_t> batch;
      std::vector<float> want;
      for (std::size_t p = 0; p < parts.size(); ++p) {
        const auto ids = random_ids(parts[p].before + parts[p].rows, sizes_.vocabulary,
                                    static_cast<unsigned>(p));
        KvSequence sequence(kv);
        for (std::int64_t i = 0; i < parts[p].before; i += 16)
          read(executor, pool_, sequence,
               std::span(ids).subspan(
                   static_cast<std::size_t>(i),
                   static_cast<std::size_t>(std::min<std::int64_t>(16, parts[p].before - i))));
        together.push_back(sequence.fork(sequence.length()));
        const auto rest = std::span(ids).subspan(static_cast<std::size_t>(parts[p].before));
        const auto logits = read(executor, pool_, sequence, rest);
        want.insert(want.end(), logits.begin(), logits.end());
        batch.insert(batch.end(), rest.begin(), rest.end());
        alone.push_back(std::move(sequence));
      }
      std::vector<SequenceSlice> slices;
      std::vector<std::int32_t> selected;
      for (std::size_t p = 0; p < parts.size(); ++p) {
        together[p].reserve(parts[p].rows);
        slices.push_back({static_cast<std::int64_t>(selected.size()), parts[p].rows,
                          parts[p].before, together[p].blocks(), dtype});
        for (std::int64_t r = 0; r < parts[p].rows; ++r)
          selected.push_back(static_cast<std::int32_t>(selected.size()));
      }
      const auto got = executor.run(pool_, batch, slices, selected);
      EXPECT_TRUE(std::vector<float>(got.begin(), got.end()) == want)
          << static_cast<int>(kind) << ' ' << to_string(dtype);
      // And each goes on alone after having run in a batch.
      for (std::size_t p = 0; p < parts.size(); ++p) {
        together[p].advance(std::span(batch).subspan(static_cast<std::size_t>(slices[p].first_row),
                                                     static_cast<std::size_t>(parts[p].rows)));
        const std::vector<std::int32_t> next = {1, 2, 3};
        EXPECT_EQ(read(executor, pool_, together[p], next), read(executor, pool_, alone[p], next));
      }
    }
}

TEST_F(ExecutorTest, GivesTheWantedRowsInTheOrderAskedFor) {
  const Graph graph = small_graph(SmallWeights::kInt8);
  Executor executor(graph, Phase::kPrefill, devices_, context(24, 24));
  KvPool kv = new_kv_pool();
  KvSequence sequence(kv);
  const auto ids = random_ids(20, sizes_.vocabulary);
  const auto all = read(executor, pool_, sequence, ids);
  KvSequence again(kv);
  again.reserve(20);
  const SequenceSlice slice{0, 20, 0, again.blocks(), again.dtype()};
  const std::vector<std::int32_t> selected = {19, 0, 7, 7};
  const auto some = executor.run(pool_, ids, {&slice, 1}, selected);
  ASSERT_EQ(some.size(), 4U * 70U);
  for (std::size_t s = 0; s < 4; ++s)
    for (std::size_t c = 0; c < 70; ++c)
      EXPECT_EQ(some[s * 70 + c], all[static_cast<std::size_t>(selected[s]) * 70 + c]);
  EXPECT_TRUE(executor.run(pool_, ids, {&slice, 1}, {}).empty());
}

TEST_F(ExecutorTest, RefusesMoreThanItWasMadeFor) {
  const Graph graph = small_graph(SmallWeights::kFloat);
  const std::vector<const Device*> cpu = {&cpu_};
  Executor executor(graph, Phase::kDecode, cpu, context(3, 2));
  const auto ids = random_ids(4, sizes_.vocabulary);
  const std::vector<std::int32_t> selected = {0, 1, 2};
  EXPECT_NE(error_of([&] {
              executor.run(pool_, ids, {}, {});
            }).find("[executor] 4 rows and 0 logit rows, made for at most 3 and 2"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              executor.run(pool_, std::span(ids).first(3), {}, selected);
            }).find("3 logit rows"),
            std::string::npos);
  EXPECT_NE(error_of([&] { executor.run(pool_, {}, {}, {}); }).find("0 rows"), std::string::npos);
  // An NPU's program writes whole chunks: buffers must hold them.
  const Graph int8 = small_graph(SmallWeights::kInt8);
  EXPECT_NE(error_of([&] {
              Executor(int8, Phase::kPrefill, devices_, context(23, 1));
            }).find("buffers of 23 rows cannot hold a chunk of 24"),
            std::string::npos);
}

TEST_F(ExecutorTest, NeedsADeviceForEveryNode) {
  const Graph graph = small_graph(SmallWeights::kInt8);
  const std::vector<const Device*> npu = {&npu_};
  const std::string error =
      error_of([&] { Executor(graph, Phase::kPrefill, npu, context(24, 24)); });
  EXPECT_NE(error.find("[placement] embed: no device runs Embedding in prefill"), std::string::npos)
      << error;
}

}  // namespace
}  // namespace tandem
