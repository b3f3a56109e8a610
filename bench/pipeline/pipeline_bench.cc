// Chunks in flight on two devices whose programs sleep instead of computing, so that neither takes
// time from the other: measured beside simulated makespans and bubbles, for each policy. The times
// are those of llm.npu's example (docs/npu.md).
//   build/pipeline_bench
#include <fmt/format.h>

#include <array>
#include <chrono>
#include <thread>

#include "devices/no_panel_cache.h"
#include "execute/pipeline.h"

namespace tandem {
namespace {

constexpr int kLayers = 24;
constexpr std::int64_t kWidth = 64;
// Of one chunk, in all layers together.
constexpr double kNpuSeconds = 0.315, kCpuSeconds = 0.587 * kNpuSeconds;

class SleepingProgram : public Program {
 public:
  explicit SleepingProgram(double seconds) : seconds_(seconds) {}
  const Needs& needs() const noexcept override { return needs_; }
  void run(const RunContext&) const override { std::this_thread::sleep_for(seconds_); }

 private:
  std::chrono::duration<double> seconds_;
  Needs needs_;
};

// Takes attention, or everything else.
class SleepingDevice : public Device {
 public:
  SleepingDevice(std::string_view name, bool attention) : name_(name), attention_(attention) {}
  std::string_view name() const noexcept override { return name_; }
  Offer offer(const Graph& graph, const PhaseSpec&) const override {
    Offer offer;
    for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
      if ((graph.node(id).op == Op::kGroupQueryAttention) == attention_)
        offer.claims.push_back({{id}, {"sleeps"}, {}});
      else
        offer.refusals.push_back({id, "leaves it"});
    }
    return offer;
  }
  std::unique_ptr<Program> compile(const Graph& segment, const CompileContext&) const override {
    // Queries, keys and values; or the rest of the block.
    const double npu = (segment.nodes().size() == 3 ? 0.3 : 0.7) * kNpuSeconds;
    return std::make_unique<SleepingProgram>((attention_ ? kCpuSeconds : npu) / kLayers);
  }

 private:
  std::string name_;
  bool attention_;
};

Graph make_graph() {
  Graph graph;
  const std::vector<float> zeros(kWidth * kWidth);
  const FloatWeight weight{Tensor::from_floats(zeros, {kWidth, kWidth})};
  ValueId x = graph.add_input({.name = "x", .width = kWidth});
  for (std::int32_t layer = 0; layer < kLayers; ++layer) {
    const auto linear = [&](const char* name, ValueId input) {
      return graph.add(Op::kLinear, name, layer, {input}, LinearAttributes{weight, {}});
    };
    const ValueId q = linear("q", x), k = linear("k", x), v = linear("v", x);
    x = linear("o", graph.add(Op::kGroupQueryAttention, "attention", layer, {q, k, v},
                              AttentionAttributes{.heads = 1, .kv_heads = 1, .head_dim = kWidth}));
  }
  graph.set_outputs({x});
  return graph;
}

std::vector<ChunkTask> tasks_of(int chunks) {
  std::vector<ChunkSegment> segments;
  for (int layer = 0; layer < kLayers; ++layer) {
    segments.push_back({Processor::kNpu, 0.3 * kNpuSeconds / kLayers});
    segments.push_back({Processor::kCpu, kCpuSeconds / kLayers, true});
    segments.push_back({Processor::kNpu, 0.7 * kNpuSeconds / kLayers});
  }
  return chunk_tasks(segments, chunks);
}

void measure() {
  const SleepingDevice npu("npu", false), cpu("cpu", true);
  ThreadPool pool(1);
  NoPanelCache cache;
  const DeviceThreads devices[] = {{&npu, &pool}, {&cpu, &pool}};
  const Executor executor(make_graph(), {Phase::kPrefill, 16}, devices, cache, {});
  std::vector<Arena> arenas;
  for (int i = 0; i < Pipeline::kChunks; ++i) arenas.push_back(executor.make_arena());
  const std::array<std::int64_t, 1> rows = {16};
  const std::array<const void*, 1> inputs = {nullptr};
  fmt::print("{:6} {:10} {:>12} {:>12} {:>7} {:>12} {:>12}\n", "chunks", "policy", "simulated ms",
             "measured ms", "ratio", "sim. bubble", "meas. bubble");
  for (const int count : {1, 2, 3, 4, 6, 8}) {
    for (const SchedulePolicy policy :
         {SchedulePolicy::kFifo, SchedulePolicy::kLlmNpu, SchedulePolicy::kLookahead}) {
      Pipeline pipeline(policy);
      Trace trace;
      // The first run measures what the second one is planned with.
      for (int repetition = 0; repetition < 2; ++repetition) {
        TraceRecorder recorder;
        std::vector<Pipeline::Chunk> chunks;
        for (int i = 0; i < count; ++i)
          chunks.push_back({&executor,
                            {.inputs = inputs, .rows = rows, .trace = &recorder},
                            &arenas[static_cast<std::size_t>(i % Pipeline::kChunks)]});
        pipeline.run(chunks, [](std::size_t) {});
        trace = recorder.trace();
      }
      const Schedule planned = schedule(tasks_of(count), policy, Pipeline::kChunks);
      const double simulated = planned.makespan() * 1e3, measured = trace.makespan() * 1e-3;
      fmt::print("{:6} {:10} {:12.1f} {:12.1f} {:7.3f} {:10.1f} % {:10.1f} %\n", count,
                 to_string(policy), simulated, measured, measured / simulated,
                 100 * planned.bubble(), 100 * trace.npu_time().bubble());
    }
  }
}

}  // namespace
}  // namespace tandem

int main() { tandem::measure(); }
