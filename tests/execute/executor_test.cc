// Executors: memory handed on between segments without harm, several sequences in one batch,
// several runs at once, devices that refuse or fail, and the limits of a run.
#include "execute/executor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <thread>

#include "execute/run_graph.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::PlainExecutor;
using testing::random_ids;
using testing::read_all;
using testing::row_numbers;
using testing::run_graph;
using testing::slice_of;
using testing::small_graph;
using testing::small_kv_pool;
using testing::SmallSizes;
using testing::SmallWeights;

class ExecutorTest : public ::testing::Test {
 protected:
  static constexpr PhaseSpec kChunk{Phase::kPrefill, 24};

  // With room for `selected` rows of logits.
  Executor make(const Graph& graph, std::int64_t selected = 24, PhaseSpec spec = kChunk) {
    return {graph, spec, both_, cache_, {&selected, 1}};
  }

  SmallSizes sizes_;
  ThreadPool pool_{2};
  ThreadPool npu_pool_{2};
  NoPanelCache cache_;
  NpuHostDevice npu_{select_kernels(detect_cpu_features())};
  CpuDevice cpu_{select_kernels(detect_cpu_features())};
  std::vector<DeviceThreads> both_ = {{&npu_, &npu_pool_}, {&cpu_, &pool_}};
};

// Reads as read_all() does, with memory of its own for every value.
std::vector<float> read_plainly(PlainExecutor& executor, ThreadPool& pool, KvSequence& sequence,
                                std::span<const std::int32_t> ids) {
  const auto rows = static_cast<std::int64_t>(ids.size());
  sequence.reserve(rows);
  const SequenceSlice slice = slice_of(sequence, rows);
  return executor.run(pool, ids, {&slice, 1}, row_numbers(rows));
}

TEST_F(ExecutorTest, HandsMemoryOnWithoutHarm) {
  const auto ids = random_ids(24, sizes_.vocabulary);
  const std::vector<const Device*> devices = {&npu_, &cpu_};
  for (const SmallWeights kind : testing::kAllSmallWeights) {
    const Graph graph = small_graph(kind);
    const auto kv = small_kv_pool();
    const Executor executor = make(graph);
    Arena arena = executor.make_arena();
    PlainExecutor plain(graph, kChunk, devices, pool_, cache_, {24});
    std::int64_t floats = 0;
    for (const Value& value : graph.values()) floats += 24 * value.width;
    EXPECT_LT(arena.bytes(), 4 * floats * 2 / 3);
    EXPECT_EQ(executor.max_rows(kTokens), 24);
    EXPECT_EQ(executor.max_rows(1), 24);
    EXPECT_EQ(executor.spec().rows, 24);
    EXPECT_GT(executor.weight_bytes(), 0);
    for (const std::size_t rows : {24, 5, 1}) {
      KvSequence a(kv), b(kv);
      const auto part = std::span(ids).first(rows);
      const auto want = read_plainly(plain, pool_, b, part);
      for (const float logit : want) ASSERT_TRUE(std::isfinite(logit));
      EXPECT_EQ(read_all(executor, arena, a, part), want);
    }
  }
}

TEST_F(ExecutorTest, GivesRowsOfABatchTheBitsOfEachSequenceAlone) {
  // Tokens read already, and in this batch.
  struct Part {
    std::int64_t before, rows;
  };
  // A fresh prompt, one token within a block, one that begins a block, a run across a boundary.
  const std::vector<Part> parts = {{0, 5}, {10, 1}, {64, 1}, {60, 9}, {0, 1}, {127, 3}};
  for (const SmallWeights kind : testing::kAllSmallWeights)
    for (const DType dtype : {DType::kF16, DType::kF32}) {
      const Graph graph = small_graph(kind);
      const auto kv = small_kv_pool(dtype);
      const Executor executor = make(graph);
      Arena arena = executor.make_arena();
      std::vector<KvSequence> alone, together;
      std::vector<std::int32_t> batch;
      std::vector<float> want;
      for (std::size_t p = 0; p < parts.size(); ++p) {
        const auto ids = random_ids(parts[p].before + parts[p].rows, sizes_.vocabulary,
                                    static_cast<unsigned>(p));
        KvSequence sequence(kv);
        for (std::int64_t i = 0; i < parts[p].before; i += 16)
          read_all(executor, arena, sequence,
                   std::span(ids).subspan(
                       static_cast<std::size_t>(i),
                       static_cast<std::size_t>(std::min<std::int64_t>(16, parts[p].before - i))));
        together.push_back(sequence.fork(sequence.length()));
        const auto rest = std::span(ids).subspan(static_cast<std::size_t>(parts[p].before));
        const auto logits = read_all(executor, arena, sequence, rest);
        want.insert(want.end(), logits.begin(), logits.end());
        batch.insert(batch.end(), rest.begin(), rest.end());
        alone.push_back(std::move(sequence));
      }
      std::vector<SequenceSlice> slices;
      std::int64_t rows = 0;
      for (std::size_t p = 0; p < parts.size(); ++p) {
        together[p].reserve(parts[p].rows);
        slices.push_back(slice_of(together[p], parts[p].rows, rows));
        rows += parts[p].rows;
      }
      const auto got = run_graph(executor, arena, batch, slices, row_numbers(rows));
      EXPECT_TRUE(std::vector<float>(got.begin(), got.end()) == want)
          << static_cast<int>(kind) << ' ' << to_string(dtype);
      // And each goes on alone after having run in a batch.
      for (std::size_t p = 0; p < parts.size(); ++p) {
        together[p].advance(std::span(batch).subspan(static_cast<std::size_t>(slices[p].first_row),
                                                     static_cast<std::size_t>(parts[p].rows)));
        const std::vector<std::int32_t> next = {1, 2, 3};
        EXPECT_EQ(read_all(executor, arena, together[p], next),
                  read_all(executor, arena, alone[p], next));
      }
    }
}

TEST_F(ExecutorTest, GivesTheWantedRowsInTheOrderAskedFor) {
  const Graph graph = small_graph(SmallWeights::kInt8);
  const Executor executor = make(graph);
  Arena arena = executor.make_arena();
  const auto kv = small_kv_pool();
  KvSequence sequence(kv);
  const auto ids = random_ids(20, sizes_.vocabulary);
  const auto all = read_all(executor, arena, sequence, ids);
  KvSequence again(kv);
  again.reserve(20);
  const SequenceSlice slice = slice_of(again, 20);
  const std::vector<std::int32_t> selected = {19, 0, 7, 7};
  const auto some = run_graph(executor, arena, ids, {&slice, 1}, selected);
  ASSERT_EQ(some.size(), 4U * 70U);
  for (std::size_t s = 0; s < 4; ++s)
    for (std::size_t c = 0; c < 70; ++c)
      EXPECT_EQ(some[s * 70 + c], all[static_cast<std::size_t>(selected[s]) * 70 + c]);
  EXPECT_TRUE(run_graph(executor, arena, ids, {&slice, 1}, {}).empty());
}

TEST_F(ExecutorTest, WritesOutputsWhereTheyAreWanted) {
  // Logits of the selected rows, and what the second block adds for every token.
  Graph graph = small_graph(SmallWeights::kInt8);
  const ValueId logits = graph.outputs()[0];
  const auto down = std::ranges::find(graph.nodes(), "layers.1.down.dequantize", &Node::name);
  graph.set_outputs({logits, down->output()});
  const Executor executor = make(graph);
  Arena arena = executor.make_arena();
  const auto kv = small_kv_pool();
  const auto ids = random_ids(9, sizes_.vocabulary);
  const auto selected = row_numbers(9);
  const void* const inputs[] = {ids.data(), selected.data()};
  const std::int64_t rows[] = {9, 9};
  const auto run = [&](std::span<void* const> outputs) {
    KvSequence sequence(kv);
    sequence.reserve(9);
    const SequenceSlice slice = slice_of(sequence, 9);
    executor.run({inputs, rows, {&slice, 1}, outputs}, arena);
  };
  const auto output = [&](std::size_t i, std::int64_t width) {
    const float* data = executor.output(arena, i);
    return std::vector<float>(data, data + 9 * width);
  };
  run({});
  const auto want_logits = output(0, 70), want_down = output(1, 96);
  testing::Aligned<float> own_logits(24 * 70, -1), own_down(24 * 96, -1);
  void* const both[] = {own_logits.data(), own_down.data()};
  run(both);
  EXPECT_EQ(executor.output(arena, 0), own_logits.data());
  EXPECT_EQ(output(0, 70), want_logits);
  EXPECT_EQ(output(1, 96), want_down);
  // Nothing but the rows that were asked for is written to where the CPU gives them.
  EXPECT_EQ(own_logits[9 * 70], -1);
  void* const one[] = {nullptr, own_down.data()};
  run(one);
  EXPECT_NE(executor.output(arena, 0), own_logits.data());
  EXPECT_EQ(executor.output(arena, 1), own_down.data());
  EXPECT_EQ(output(0, 70), want_logits);
  // And back into the arena.
  run({});
  EXPECT_NE(executor.output(arena, 1), own_down.data());
  EXPECT_EQ(output(1, 96), want_down);
}

TEST_F(ExecutorTest, EstimatesTheWorkOfSegments) {
  const Graph graph = small_graph(SmallWeights::kInt8);
  const Executor executor = make(graph);
  const auto work = [&](std::size_t segment, std::int64_t tokens, std::int64_t position) {
    const std::int64_t rows[] = {tokens, 0};
    const SequenceSlice slice{0, tokens, position, {}};
    return executor.work(segment, {{}, rows, {&slice, 1}});
  };
  // Of the first block: norm, products, attention.
  const std::size_t norm = 1, products = 2, attention = 3;
  for (std::size_t s = 0; s < executor.placement().segments.size(); ++s)
    EXPECT_EQ(executor.has_attention(s), s == attention || s == attention + 7) << s;
  EXPECT_GT(work(norm, 1, 0), 0);
  EXPECT_EQ(work(norm, 8, 100), 8 * work(norm, 1, 0));
  // A program of fixed rows does the same whatever it is given: multiply-adds, and a few for each
  // value.
  EXPECT_EQ(work(products, 1, 0), work(products, 24, 0));
  EXPECT_GT(work(products, 1, 0), 24 * 96 * (96 + 2 * 48));
  EXPECT_LT(work(products, 1, 0), 24 * 96 * (96 + 2 * 48) * 1.5);
  // A product with a key and one with a value for each row, head and token that it attends to, in
  // floats.
  EXPECT_EQ(work(attention, 2, 9) - work(attention, 2, 4), 2 * 5 * 2 * 96 * 4);
}

TEST_F(ExecutorTest, RefusesMoreThanItWasMadeFor) {
  const Graph graph = small_graph(SmallWeights::kFloat);
  const Executor executor = make(graph, 2, {Phase::kDecode, 3});
  Arena arena = executor.make_arena();
  const auto ids = random_ids(4, sizes_.vocabulary);
  const auto error = [&](std::size_t tokens, std::int64_t selected) {
    return error_of([&] {
      run_graph(executor, arena, std::span(ids).first(tokens), {}, row_numbers(selected));
    });
  };
  EXPECT_EQ(error(4, 0), "[executor] 4 rows in space 0, made for at most 3");
  EXPECT_EQ(error(3, 3), "[executor] 3 rows in space 1, made for at most 2");
  EXPECT_EQ(error(0, 0), "[executor] 0 rows in space 0, made for at most 3");
  const void* const inputs[] = {ids.data(), ids.data(), ids.data()};
  const std::int64_t rows[] = {1, 0, 0};
  void* const outputs[] = {nullptr, nullptr};
  EXPECT_EQ(error_of([&] { executor.run({inputs, {rows, 2}, {}}, arena); }),
            "[executor] 3 inputs, 2 row counts and 0 outputs given, expected 2, 2 and 1");
  EXPECT_EQ(error_of([&] { executor.run({{inputs, 2}, rows, {}}, arena); }),
            "[executor] 2 inputs, 3 row counts and 0 outputs given, expected 2, 2 and 1");
  EXPECT_EQ(error_of([&] { executor.run({{inputs, 2}, {rows, 2}, {}, outputs}, arena); }),
            "[executor] 2 inputs, 2 row counts and 2 outputs given, expected 2, 2 and 1");
  EXPECT_EQ(error_of([&] { Executor(graph, kChunk, both_, cache_, {}); }),
            "[executor] rows of 1 spaces for a graph of 2");
}

TEST_F(ExecutorTest, NeedsADeviceForEveryNode) {
  const Graph graph = small_graph(SmallWeights::kInt8);
  both_.pop_back();
  const std::string error = error_of([&] { make(graph); });
  EXPECT_NE(error.find("[placement] embed: no device runs Embedding in prefill"), std::string::npos)
      << error;
}

// What compiles for the CPU, under another name and with faults.
class TestDevice : public Device {
 public:
  TestDevice(std::string name, const CpuDevice& cpu, bool claims)
      : name_(std::move(name)), cpu_(cpu), claims_(claims) {}
  std::string_view name() const noexcept override { return name_; }
  Offer offer(const Graph& graph, const PhaseSpec& spec) const override {
    if (claims_) return cpu_.offer(graph, spec);
    Offer offer;
    for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id)
      offer.refusals.push_back({id, "not today"});
    return offer;
  }
  std::unique_ptr<Program> compile(const Graph& segment,
                                   const CompileContext& context) const override {
    return std::make_unique<Faulty>(cpu_.compile(segment, context), *this);
  }

  // The run of a program, counted from now on, that throws; 0: none.
  mutable std::atomic<int> faulty_run = 0;
  mutable std::atomic<int> runs = 0;

 private:
  class Faulty : public Program {
   public:
    Faulty(std::unique_ptr<Program> program, const TestDevice& device)
        : program_(std::move(program)), device_(device) {}
    const Needs& needs() const noexcept override { return program_->needs(); }
    void run(const RunContext& context) const override {
      ++device_.runs;
      if (device_.faulty_run > 0 && --device_.faulty_run == 0)
        fail(ErrorCode::kInternal, "[test] the device has failed");
      program_->run(context);
    }

   private:
    std::unique_ptr<Program> program_;
    const TestDevice& device_;
  };

  std::string name_;
  const CpuDevice& cpu_;
  bool claims_;
};

TEST_F(ExecutorTest, FallsThroughToTheDeviceThatTakesANode) {
  const Graph graph = small_graph(SmallWeights::kInt4);
  const TestDevice refusing("shy", cpu_, false), claiming("eager", cpu_, true);
  both_ = {{&refusing, &npu_pool_}, {&claiming, &pool_}, {&cpu_, &pool_}};
  const Executor executor = make(graph);
  for (const PlacedNode& node : executor.placement().nodes) EXPECT_EQ(node.device, 1U);
  EXPECT_EQ(executor.placement().nodes[0].reason, "shy: not today; eager: float32");
  const std::string table = to_table(graph, executor.placement());
  EXPECT_NE(table.find("shy: not today; eager: int4 weights, int8 activations by group"),
            std::string::npos)
      << table;
  Arena arena = executor.make_arena();
  const auto kv = small_kv_pool();
  KvSequence a(kv), b(kv);
  const auto ids = random_ids(5, sizes_.vocabulary);
  const auto got = read_all(executor, arena, a, ids);
  EXPECT_EQ(refusing.runs, 0);
  EXPECT_EQ(claiming.runs, 4);
  both_ = {{&cpu_, &pool_}};
  const Executor plain = make(graph);
  Arena other = plain.make_arena();
  EXPECT_EQ(got, read_all(plain, other, b, ids));
}

TEST_F(ExecutorTest, IsUsableAfterADeviceHasFailed) {
  const Graph graph = small_graph(SmallWeights::kInt8);
  const TestDevice device("flaky", cpu_, true);
  both_ = {{&npu_, &npu_pool_}, {&device, &pool_}};
  const Executor executor = make(graph);
  Arena arena = executor.make_arena();
  const auto kv = small_kv_pool();
  const auto ids = random_ids(24, sizes_.vocabulary);
  KvSequence sequence(kv);
  const auto want = read_all(executor, arena, sequence, ids);
  const int runs = device.runs;
  ASSERT_EQ(runs, 10);  // the CPU's segments
  for (int nth = 1; nth <= runs; ++nth) {
    device.faulty_run = nth;
    KvSequence failing(kv);
    EXPECT_EQ(error_of([&] { read_all(executor, arena, failing, ids); }),
              "[test] the device has failed");
    EXPECT_EQ(failing.length(), 0);
    // Into the same blocks, out of the same arena.
    EXPECT_EQ(read_all(executor, arena, failing, ids), want) << "after a failure of run " << nth;
  }
}

// Chunks of two sequences in flight, each on an arena of its own: what one after the other gives.
TEST_F(ExecutorTest, RunsSeveralChunksAtOnce) {
  constexpr int kThreads = 2, kChunks = 4;
  for (const SmallWeights kind : {SmallWeights::kInt8, SmallWeights::kInt4}) {
    const Graph graph = small_graph(kind);
    const Executor executor = make(graph);
    const auto kv = small_kv_pool();
    const auto read = [&](unsigned seed, Arena& arena) {
      const auto ids = random_ids(24 * kChunks, sizes_.vocabulary, seed);
      KvSequence sequence(kv);
      std::vector<float> logits;
      for (std::size_t chunk = 0; chunk < kChunks; ++chunk) {
        const auto part =
            read_all(executor, arena, sequence, std::span(ids).subspan(24 * chunk, 24));
        logits.insert(logits.end(), part.begin(), part.end());
      }
      return logits;
    };
    std::vector<std::vector<float>> want, got(kThreads);
    std::vector<Arena> arenas;
    for (unsigned i = 0; i < kThreads; ++i) arenas.push_back(executor.make_arena());
    for (unsigned i = 0; i < kThreads; ++i) want.push_back(read(i, arenas[0]));
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < kThreads; ++i)
      threads.emplace_back([&, i] { got[i] = read(i, arenas[i]); });
    for (std::thread& thread : threads) thread.join();
    EXPECT_TRUE(got == want);
    EXPECT_EQ(kv->blocks_in_use(), 0);
  }
}

}  // namespace
}  // namespace tandem
