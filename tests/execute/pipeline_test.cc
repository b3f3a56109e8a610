// Chunks in flight: the bits of one chunk after the other whatever takes how long, nothing before
// what it needs, work on both devices at once, and a clean stop when a segment fails.
#include "execute/pipeline.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <future>
#include <map>
#include <random>
#include <thread>

#include "execute/hooked_device.h"
#include "execute/run_graph.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::HookedDevice;
using testing::random_ids;
using testing::read_all;
using testing::row_numbers;
using testing::small_graph;
using testing::small_kv_pool;
using testing::SmallSizes;
using testing::SmallWeights;

constexpr std::array kPolicies = {SchedulePolicy::kFifo, SchedulePolicy::kLlmNpu,
                                  SchedulePolicy::kLookahead};
// Far longer than anything here takes.
constexpr std::chrono::seconds kTimeout{30};

// Sleeps for up to 200 µs, most often not at all.
class RandomDelays {
 public:
  void operator()() {
    std::unique_lock lock(mutex_);
    const auto microseconds = random_() % 3 == 0 ? random_() % 200 : 0;
    lock.unlock();
    if (microseconds > 0) std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
  }

 private:
  std::mutex mutex_;
  std::mt19937 random_{3};
};

class PipelineTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t kWidth = SmallSizes{}.vocabulary;

  // Whose runs have up to `rows` tokens, and as many rows of logits.
  Executor make(const Graph& graph, std::int64_t rows) {
    const DeviceThreads devices[] = {{&npu_, &npu_pool_}, {&cpu_, &cpu_pool_}};
    return {graph, {Phase::kPrefill, rows}, devices, cache_, {&rows, 1}};
  }

  // The logits of all tokens, read in chunks of `rows`: all but the last one by `executor`.
  static std::vector<float> read(Pipeline& pipeline, const Executor& executor, const Executor& last,
                                 KvSequence& sequence, std::span<const std::int32_t> ids,
                                 TraceRecorder* trace = nullptr,
                                 const std::function<void(std::size_t)>& finished = {}) {
    const auto rows = static_cast<std::size_t>(executor.spec().rows);
    const std::size_t count = (ids.size() + rows - 1) / rows;
    sequence.reserve(static_cast<std::int64_t>(ids.size()));
    struct Input {
      std::vector<std::int32_t> selected;
      std::array<const void*, 2> inputs;
      std::array<std::int64_t, 2> rows;
      SequenceSlice slice;
    };
    std::vector<Input> inputs(count);
    std::vector<Arena> arenas;
    for (int i = 0; i < Pipeline::kChunks; ++i) arenas.push_back(executor.make_arena());
    Arena last_arena = last.make_arena();
    std::vector<Pipeline::Chunk> chunks;
    for (std::size_t i = 0; i < count; ++i) {
      const auto part = ids.subspan(i * rows, std::min(rows, ids.size() - i * rows));
      const auto tokens = static_cast<std::int64_t>(part.size());
      Input& input = inputs[i];
      input.selected = row_numbers(tokens);
      input.inputs = {part.data(), input.selected.data()};
      input.rows = {tokens, tokens};
      input.slice = {0, tokens, sequence.position() + static_cast<std::int64_t>(i * rows),
                     sequence.view()};
      const bool is_last = i + 1 == count;
      chunks.push_back({is_last ? &last : &executor,
                        {.inputs = input.inputs,
                         .rows = input.rows,
                         .slices = {&input.slice, 1},
                         .trace = trace},
                        is_last ? &last_arena : &arenas[i % Pipeline::kChunks]});
    }
    std::vector<float> logits;
    pipeline.run(chunks, [&](std::size_t i) {
      if (finished) finished(i);
      const float* output = chunks[i].executor->output(*chunks[i].arena, 0);
      logits.insert(logits.end(), output, output + inputs[i].rows[0] * kWidth);
      sequence.advance(ids.subspan(i * rows, static_cast<std::size_t>(inputs[i].rows[0])));
    });
    return logits;
  }

  // One chunk after the other, one segment after the other.
  static std::vector<float> read_in_turn(const Executor& executor, KvSequence& sequence,
                                         std::span<const std::int32_t> ids) {
    Arena arena = executor.make_arena();
    const auto rows = static_cast<std::size_t>(executor.spec().rows);
    std::vector<float> logits;
    for (std::size_t at = 0; at < ids.size(); at += rows) {
      const auto part =
          read_all(executor, arena, sequence, ids.subspan(at, std::min(rows, ids.size() - at)));
      logits.insert(logits.end(), part.begin(), part.end());
    }
    return logits;
  }

  ThreadPool npu_pool_{1};
  ThreadPool cpu_pool_{2};
  NoPanelCache cache_;
  NpuHostDevice npu_host_{select_kernels(detect_cpu_features())};
  CpuDevice cpu_host_{select_kernels(detect_cpu_features())};
  HookedDevice npu_{npu_host_};
  HookedDevice cpu_{cpu_host_};
};

TEST_F(PipelineTest, GivesTheBitsOfOneChunkAfterTheOther) {
  RandomDelays delays;
  const auto sleep = [&](const std::string&) { delays(); };
  for (const bool shadows : {false, true})
    for (const std::int64_t rows : {5, 16}) {
      const Graph graph = small_graph(SmallWeights::kInt8, {.shadows = shadows});
      const Executor executor = make(graph, rows), half = make(graph, (rows + 1) / 2);
      std::vector<std::int64_t> lengths = {1, rows - 1, rows, rows + 1, 2 * rows, 6 * rows + 3};
      // More chunks than one plan has.
      if (rows == 5) lengths.push_back(rows * static_cast<std::int64_t>(Pipeline::kPlanned) + 7);
      for (const std::int64_t length : lengths) {
        const auto ids = random_ids(length, kWidth, static_cast<unsigned>(length));
        const auto kv = small_kv_pool();
        KvSequence in_turn(kv);
        const auto want = read_in_turn(executor, in_turn, ids);
        npu_.set(sleep);
        cpu_.set(sleep);
        for (const SchedulePolicy policy : kPolicies) {
          Pipeline pipeline(policy);
          const std::int64_t rest = (length - 1) % rows + 1;
          const Executor& last = rest <= half.spec().rows ? half : executor;
          // The second time with measured costs.
          for (int repetition = 0; repetition < 2; ++repetition) {
            KvSequence sequence(kv);
            ASSERT_EQ(read(pipeline, executor, last, sequence, ids), want)
                << to_string(policy) << ", " << length << " tokens in chunks of " << rows;
            // And what was read is as good for what follows.
            KvSequence next = in_turn.fork(length);
            const auto more = random_ids(3, kWidth, 99);
            Arena arena = executor.make_arena();
            ASSERT_EQ(read_all(executor, arena, sequence, more),
                      read_all(executor, arena, next, more));
          }
        }
        npu_.set({});
        cpu_.set({});
      }
    }
}

TEST_F(PipelineTest, RunsNothingBeforeWhatItNeeds) {
  RandomDelays delays;
  npu_.set([&](const std::string&) { delays(); });
  cpu_.set([&](const std::string&) { delays(); });
  constexpr std::int64_t kRows = 8;
  constexpr int kCount = 7;
  const Graph graph = small_graph(SmallWeights::kInt8, {.shadows = true});
  const Executor executor = make(graph, kRows);
  const std::vector<Segment>& segments = executor.placement().segments;
  const auto ids = random_ids(kRows * kCount, kWidth);
  for (const SchedulePolicy policy : kPolicies) {
    KvSequence sequence(small_kv_pool());
    Pipeline pipeline(policy);
    TraceRecorder recorder;
    std::vector<std::size_t> order;
    read(pipeline, executor, executor, sequence, ids, &recorder,
         [&](std::size_t i) { order.push_back(i); });
    EXPECT_EQ(order, (std::vector<std::size_t>{0, 1, 2, 3, 4, 5, 6}));
    std::map<std::pair<std::int64_t, std::int64_t>, TraceEvent> events;
    std::map<std::string, std::vector<TraceEvent>> by_device;
    for (const TraceEvent& event : recorder.trace().events) {
      EXPECT_TRUE(events.insert({{event.chunk, event.segment}, event}).second);
      by_device[event.device].push_back(event);
    }
    ASSERT_EQ(events.size(), kCount * segments.size());
    const auto last = static_cast<std::int64_t>(segments.size()) - 1;
    for (const auto& [at, event] : events) {
      const auto [chunk, segment] = at;
      const auto& here = segments[static_cast<std::size_t>(segment)];
      EXPECT_EQ(event.device, here.device == 0 ? "npu" : "cpu");
      for (std::int64_t before = 0; before < segment - static_cast<std::int64_t>(here.beside);
           ++before)
        EXPECT_GE(event.begin, events.at({chunk, before}).end) << chunk << '/' << segment;
      const bool attention = executor.has_attention(static_cast<std::size_t>(segment));
      for (std::int64_t earlier = 0; attention && earlier < chunk; ++earlier)
        EXPECT_GE(event.begin, events.at({earlier, segment}).end) << chunk << '/' << segment;
      if (chunk >= Pipeline::kChunks) {
        EXPECT_GE(event.begin, events.at({chunk - Pipeline::kChunks, last}).end);
      }
    }
    // One at a time on a device.
    for (auto& [device, its] : by_device) {
      std::ranges::sort(its, {}, &TraceEvent::begin);
      for (std::size_t i = 1; i < its.size(); ++i) EXPECT_GE(its[i].begin, its[i - 1].end);
    }
  }
}

// Two threads that wait for each other: false if one waits in vain.
class Meeting {
 public:
  bool meet(int side) {
    arrived_[side].set_value();
    return others_[side].wait_for(kTimeout) == std::future_status::ready;
  }

 private:
  std::promise<void> arrived_[2];
  std::future<void> others_[2] = {arrived_[1].get_future(), arrived_[0].get_future()};
};

// Each program waits until the other one runs, in a single chunk.
TEST_F(PipelineTest, RunsShadowsBesideTheNpu) {
  const Graph graph = small_graph(SmallWeights::kInt8, {.shadows = true});
  const Executor executor = make(graph, 8);
  const auto ids = random_ids(8, kWidth);
  const auto kv = small_kv_pool();
  KvSequence in_turn(kv);
  const auto want = read_in_turn(executor, in_turn, ids);
  for (const SchedulePolicy policy : kPolicies)
    for (const std::string module : {"layers.0.q", "layers.0.o", "layers.1.up", "layers.1.down"}) {
      Meeting meeting;
      bool met[2] = {false, false};
      const auto meet_in = [&](int side, const std::string& node) {
        return [&, side, node](const std::string& nodes) {
          if (nodes.find(node + ' ') != std::string::npos) met[side] = meeting.meet(side);
        };
      };
      npu_.set(meet_in(0, module));
      cpu_.set(meet_in(1, module + ".shadow"));
      KvSequence sequence(kv);
      Pipeline pipeline(policy);
      EXPECT_EQ(read(pipeline, executor, executor, sequence, ids), want);
      EXPECT_TRUE(met[0] && met[1]) << module << ", " << to_string(policy);
    }
}

// The first chunk's product waits until the CPU has begun the second chunk.
TEST_F(PipelineTest, BeginsAChunkBeforeTheOneBeforeItIsDone) {
  const Graph graph = small_graph(SmallWeights::kInt8);
  const Executor executor = make(graph, 8);
  const auto ids = random_ids(16, kWidth);
  const auto kv = small_kv_pool();
  KvSequence in_turn(kv);
  const auto want = read_in_turn(executor, in_turn, ids);
  for (const SchedulePolicy policy : kPolicies) {
    std::promise<void> begun;
    std::future<void> second = begun.get_future();
    std::atomic<int> embeddings = 0, products = 0;
    bool waited_in_vain = false;
    cpu_.set([&](const std::string& nodes) {
      if (nodes.find("embed ") != std::string::npos && ++embeddings == 2) begun.set_value();
    });
    npu_.set([&](const std::string&) {
      if (products++ == 0) waited_in_vain = second.wait_for(kTimeout) != std::future_status::ready;
    });
    KvSequence sequence(kv);
    Pipeline pipeline(policy);
    EXPECT_EQ(read(pipeline, executor, executor, sequence, ids), want);
    EXPECT_FALSE(waited_in_vain) << to_string(policy);
  }
}

TEST_F(PipelineTest, StopsWhenASegmentFails) {
  const Graph graph = small_graph(SmallWeights::kInt8, {.shadows = true});
  const Executor executor = make(graph, 8);
  const auto ids = random_ids(8 * 6, kWidth);
  const auto kv = small_kv_pool();
  KvSequence in_turn(kv);
  const auto want = read_in_turn(executor, in_turn, ids);
  const auto per_chunk = static_cast<int>(executor.placement().segments.size());
  for (const SchedulePolicy policy : kPolicies) {
    Pipeline pipeline(policy);
    for (int nth = 1; nth <= 6 * per_chunk; nth += 13) {
      std::atomic<int> left = nth;
      const auto fail_at_last = [&](const std::string&) {
        if (--left == 0) fail(ErrorCode::kInternal, "[test] the device has failed");
      };
      npu_.set(fail_at_last);
      cpu_.set(fail_at_last);
      KvSequence sequence(kv);
      EXPECT_EQ(error_of([&] { read(pipeline, executor, executor, sequence, ids); }),
                "[test] the device has failed");
      npu_.set({});
      cpu_.set({});
      sequence.rewind(0);
      EXPECT_EQ(read(pipeline, executor, executor, sequence, ids), want) << nth;
    }
    KvSequence sequence(kv);
    EXPECT_EQ(error_of([&] {
                read(pipeline, executor, executor, sequence, ids, nullptr, [](std::size_t i) {
                  if (i == 2) fail(ErrorCode::kInternal, "[test] enough");
                });
              }),
              "[test] enough");
    EXPECT_EQ(sequence.length(), 2 * 8);
  }
}

TEST_F(PipelineTest, NeedsTheSameSegments) {
  const Executor executor = make(small_graph(SmallWeights::kInt8), 8);
  const Executor other = make(small_graph(SmallWeights::kInt8, {.shadows = true}), 8);
  KvSequence sequence(small_kv_pool());
  Pipeline pipeline(SchedulePolicy::kFifo);
  EXPECT_EQ(error_of([&] { read(pipeline, executor, other, sequence, random_ids(16, kWidth)); }),
            "[pipeline] expected the same segments on one or two devices");
  pipeline.run({}, [](std::size_t) { FAIL(); });
}

}  // namespace
}  // namespace tandem
