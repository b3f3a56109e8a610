// Chunks of prompts in flight: what is ready of several chunks runs at once on the NPU and on the
// CPU, and within a chunk what does not need each other.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "execute/executor.h"
#include "execute/schedule.h"

namespace tandem {

// Belongs to one thread, which works for the CPU while a second one works for the NPU.
class Pipeline {
 public:
  // Chunks in flight at once, at most: each takes an arena.
  static constexpr int kChunks = 4;
  // Chunks that are planned together: those of a longer prompt follow in further plans.
  static constexpr std::size_t kPlanned = 64;

  explicit Pipeline(SchedulePolicy policy) : policy_(policy) {}

  // A run of all segments. What it refers to stays as it is until the pipeline has run.
  struct Chunk {
    const Executor* executor = nullptr;
    Executor::Run run;
    // May be that of a chunk that comes kChunks or more before.
    Arena* arena = nullptr;
  };
  // Runs chunks that follow each other in their sequences; what they compute is bit-identical to
  // running them one after the other. finished(index) is called on this thread for each in its
  // order; the chunk's outputs stay in its arena until it returns. Executors have the same segments
  // on the same devices, one or two, the last of which counts as the CPU, each with a thread pool of
  // its own; they must outlive the pipeline. Throws what executors, programs and `finished` throw:
  // then nothing runs any more, and the arenas stay usable.
  void run(std::span<const Chunk> chunks, const std::function<void(std::size_t)>& finished);

 private:
  void run_planned(std::span<const Chunk> chunks, const std::function<void(std::size_t)>& finished);
  std::vector<ChunkTask> tasks_of(std::span<const Chunk> chunks);
  double seconds_of(const Chunk& chunk, std::size_t segment);
  void learn(const Chunk& chunk, std::size_t segment, double seconds);

  // Seconds for a unit of Executor::work().
  struct Pace {
    double work = 0;
    double seconds = 0;
  };
  SchedulePolicy policy_;
  // By segment, as measured in earlier runs; where there were none, that of its device counts.
  std::map<const Executor*, std::vector<Pace>> paces_;
  std::vector<Pace> device_paces_;
};

}  // namespace tandem
