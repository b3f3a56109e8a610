// Traces: what executors record, the figures of a trace, and its file, whole and broken.
#include "execute/trace.h"

#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "base/json.h"
#include "execute/run_graph.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::ScratchFolder;

// Two chunks of a prompt in turn, then one token of an answer, then another prompt.
Trace small_trace() {
  constexpr Phase kPrefill = Phase::kPrefill, kDecode = Phase::kDecode;
  return {{
      {"cpu", "model.embed_tokens", kPrefill, 0, 0, 16, 100, 101},
      {"npu", "layers.0.q_proj", kPrefill, 0, 1, 16, 101, 103},
      {"cpu", "layers.0.attention", kPrefill, 0, 2, 16, 103, 106},
      {"npu", "layers.0.o_proj", kPrefill, 0, 3, 16, 106, 107},
      {"npu", "layers.0.q_proj", kPrefill, 1, 1, 7, 103, 105},
      {"cpu", "lm_head", kPrefill, 1, 4, 7, 107, 109.5},
      {"cpu", "lm_head", kDecode, 2, 0, 1, 110, 115},
      {"npu", "layers.0.q_proj", kPrefill, 3, 1, 5, 120, 121},
  }};
}

TEST(Trace, HasFigures) {
  const Trace trace = small_trace();
  EXPECT_EQ(trace.devices(), (std::vector<std::string>{"npu", "cpu"}));
  EXPECT_EQ(trace.makespan(), 21);
  EXPECT_EQ(trace.busy("npu"), 6);
  EXPECT_EQ(trace.busy("cpu"), 11.5);
  // From 100 to 107 it works for 5; the other prompt takes no more than its segment.
  EXPECT_EQ(trace.npu_time().busy, 6);
  EXPECT_EQ(trace.npu_time().idle, 2);
  EXPECT_EQ(trace.npu_time().bubble(), 0.25);
  EXPECT_EQ(Trace().makespan(), 0);
  EXPECT_EQ(Trace().npu_time().bubble(), 0);
}

TEST(Trace, IsReadAsItWasWritten) {
  const ScratchFolder folder;
  const Trace trace = small_trace();
  write_text_file(folder / "trace.json", to_chrome_json(trace));
  const Trace read = read_trace(folder / "trace.json");
  ASSERT_EQ(read.events.size(), trace.events.size());
  for (std::size_t i = 0; i < trace.events.size(); ++i) {
    const TraceEvent &a = trace.events[i], &b = read.events[i];
    EXPECT_EQ(b.device, a.device);
    EXPECT_EQ(b.name, a.name);
    EXPECT_EQ(b.phase, a.phase);
    EXPECT_EQ(b.chunk, a.chunk);
    EXPECT_EQ(b.segment, a.segment);
    EXPECT_EQ(b.rows, a.rows);
    EXPECT_EQ(b.begin, a.begin);
    EXPECT_EQ(b.end, a.end);
  }
}

// What Chrome and Perfetto need, and what they write besides.
TEST(Trace, IsChromesFormat) {
  const ScratchFolder folder;
  const Json json = parse_json(to_chrome_json(small_trace()), "trace");
  const Json& events = json.at("traceEvents");
  ASSERT_EQ(events.size(), 2 + 8);
  EXPECT_EQ(events[0], parse_json(R"({"ph": "M", "name": "thread_name", "pid": 1, "tid": 1,
                                     "args": {"name": "npu"}})",
                                  "event"));
  EXPECT_EQ(events[2], parse_json(R"({"ph": "X", "name": "model.embed_tokens", "cat": "prefill",
                                     "pid": 1, "tid": 2, "ts": 100.0, "dur": 1.0,
                                     "args": {"chunk": 0, "segment": 0, "rows": 16}})",
                                  "event"));
  write_text_file(folder / "other.json",
                  R"({"traceEvents": [{"ph": "B", "ts": 1}, {"ph": "C", "args": {"x": 1}},
                      {"ph": "X", "pid": 7, "tid": 9, "ts": 1, "dur": 2},
                      {"ph": "M", "name": "thread_name", "pid": 7, "tid": 8,
                       "args": {"name": "elsewhere"}}]})");
  const Trace other = read_trace(folder / "other.json");
  ASSERT_EQ(other.events.size(), 1u);
  EXPECT_EQ(other.events[0].device, "thread 9");
  EXPECT_EQ(other.events[0].end, 3);
}

TEST(Trace, RefusesOtherFiles) {
  const ScratchFolder folder;
  const fs::path file = folder / "bad.json";
  const std::pair<const char*, const char*> cases[] = {
      {"[1, 2", "line 1"},
      {"[]", "an object with \"traceEvents\""},
      {R"({"events": []})", "an object with \"traceEvents\""},
      {R"({"traceEvents": {}})", "an object with \"traceEvents\""},
      {R"({"traceEvents": []})", "traceEvents: expected complete events"},
      {R"({"traceEvents": [{"ph": "B", "ts": 1}]})", "traceEvents: expected complete events"},
      {R"({"traceEvents": [7]})", "traceEvents[0]"},
      {R"({"traceEvents": [{"ph": 7}]})", "traceEvents[0]: ph"},
      {R"({"traceEvents": [{"ph": "C"}, {"ph": "X", "ts": 1}]})", "traceEvents[1].dur"},
      {R"({"traceEvents": [{"ph": "X", "dur": 1}]})", "traceEvents[0].ts: expected microseconds"},
      {R"({"traceEvents": [{"ph": "X", "ts": -1, "dur": 1}]})", "traceEvents[0].ts"},
      {R"({"traceEvents": [{"ph": "X", "ts": 1e99, "dur": 1}]})", "traceEvents[0].ts"},
      {R"({"traceEvents": [{"ph": "X", "ts": "now", "dur": 1}]})", "traceEvents[0]: ts"},
      {R"({"traceEvents": [{"ph": "X", "ts": NaN, "dur": 1}]})", "traceEvents[0]: ts"},
      {R"({"traceEvents": [{"ph": "X", "ts": 1, "dur": 1, "args": 5}]})", "traceEvents[0]: args"},
      {R"({"traceEvents": [{"ph": "X", "ts": 1, "dur": 1, "args": {"chunk": -1}}]})",
       "traceEvents[0]: args.chunk"},
  };
  for (const auto& [text, part] : cases) {
    write_text_file(file, text);
    try {
      read_trace(file);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_EQ(error.code(), ErrorCode::kFormat) << message;
      EXPECT_NE(message.find(file.string()), std::string::npos) << message;
      EXPECT_NE(message.find(part), std::string::npos) << message;
    }
  }
}

// Whatever is changed in a file, it is read or refused.
TEST(Trace, SurvivesAnyChange) {
  const ScratchFolder folder;
  const fs::path file = folder / "changed.json";
  const std::string whole = to_chrome_json(small_trace());
  std::mt19937 random(3);
  int refused = 0;
  for (int i = 0; i < 600; ++i) {
    std::string text = whole;
    const auto at = random() % text.size();
    if (i % 3 == 0)
      text.resize(at);
    else if (i % 3 == 1)
      text[at] = "0-9{}[],:\"eEnX"[random() % 14];
    else
      text.erase(at, random() % 20);
    std::ofstream(file, std::ios::binary) << text;
    try {
      const Trace trace = read_trace(file);
      EXPECT_GE(trace.makespan(), 0);
      EXPECT_GE(trace.npu_time().idle, 0);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kFormat) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 300);
}

TEST(Trace, OfAScheduleHasItsTimes) {
  const std::vector<ChunkSegment> segments = {
      {Processor::kNpu, 1e-3}, {Processor::kCpu, 2e-3, true}, {Processor::kNpu, 3e-3}};
  const Schedule planned = schedule(chunk_tasks(segments, 3), SchedulePolicy::kFifo);
  const Trace trace = to_trace(planned);
  EXPECT_NEAR(trace.makespan(), planned.makespan() * 1e6, 1e-6);
  EXPECT_NEAR(trace.busy("cpu"), 6000, 1e-6);
  EXPECT_NEAR(trace.npu_time().bubble(), planned.bubble(), 1e-9);
  EXPECT_EQ(trace.events.size(), 9u);
}

TEST(TraceRecorder, GetsEverySegmentOfEveryRun) {
  const testing::SmallSizes sizes;
  ThreadPool pool(2);
  NoPanelCache cache;
  const Kernels& kernels = select_kernels(detect_cpu_features());
  const NpuHostDevice npu(kernels);
  const CpuDevice cpu(kernels);
  const std::vector<DeviceThreads> both = {{&npu, &pool}, {&cpu, &pool}};
  const Graph graph = testing::small_graph(testing::SmallWeights::kInt8);
  constexpr std::int64_t kRows = 8;
  const Executor executor(graph, {Phase::kPrefill, kRows}, both, cache, {&kRows, 1});
  Arena arena = executor.make_arena();
  KvSequence sequence(testing::small_kv_pool());
  TraceRecorder recorder;
  for (const std::int64_t rows : {8, 3}) {
    const auto ids = testing::random_ids(rows, sizes.vocabulary);
    sequence.reserve(rows);
    const SequenceSlice slice = testing::slice_of(sequence, rows);
    const void* const inputs[] = {ids.data(), nullptr};
    const std::int64_t counts[] = {rows, 0};
    executor.run({.inputs = inputs, .rows = counts, .slices = {&slice, 1}, .trace = &recorder},
                 arena);
    sequence.advance(ids);
  }
  const Trace trace = recorder.trace();
  const auto& segments = executor.placement().segments;
  ASSERT_EQ(trace.events.size(), 2 * segments.size());
  double now = 0;
  for (std::size_t i = 0; i < trace.events.size(); ++i) {
    const TraceEvent& event = trace.events[i];
    const std::size_t chunk = i / segments.size(), segment = i % segments.size();
    EXPECT_EQ(event.device, segments[segment].device == 0 ? "npu" : "cpu");
    EXPECT_EQ(event.phase, Phase::kPrefill);
    EXPECT_EQ(event.chunk, static_cast<std::int64_t>(chunk));
    EXPECT_EQ(event.segment, static_cast<std::int64_t>(segment));
    EXPECT_EQ(event.rows, chunk == 0 ? 8 : 3);
    EXPECT_FALSE(event.name.empty());
    EXPECT_LE(now, event.begin);
    EXPECT_LE(event.begin, event.end);
    now = event.end;
  }
}

}  // namespace
}  // namespace tandem
