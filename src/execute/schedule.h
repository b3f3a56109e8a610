// When the segments of a prompt's chunks run on the NPU and on the CPU: schedules as pure functions
// of the segments and their times, for comparing policies without a clock.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

enum class Processor : std::uint8_t { kNpu, kCpu };
// "npu" or "cpu".
std::string_view to_string(Processor processor) noexcept;

// A segment of the model, as every chunk runs it.
struct ChunkSegment {
  Processor processor = Processor::kNpu;
  // For the first chunk.
  double seconds = 0;
  // Reads the keys and values of all earlier chunks.
  bool attention = false;
  // For each earlier chunk, as attention needs.
  double seconds_per_chunk = 0;
  // How many of the segments right before it it can run beside.
  int beside = 0;
};

// A segment of a chunk. It needs those before it in its chunk, but for the last `beside` of them;
// attention also needs the same segment of every earlier chunk, which writes keys and values.
struct ChunkTask {
  int chunk = 0;
  int segment = 0;
  Processor processor = Processor::kNpu;
  double seconds = 0;
  bool attention = false;
  int beside = 0;
};

// The most chunks, and the most segments of a chunk: more are too many for one array of tasks.
inline constexpr int kMaxChunks = 4095;
inline constexpr int kMaxSegments = 4095;

// The tasks of a prompt: chunk by chunk, each segment by segment.
std::vector<ChunkTask> chunk_tasks(std::span<const ChunkSegment> segments, int chunks);

enum class SchedulePolicy : std::uint8_t {
  // A processor that is free takes the lowest chunk that is ready.
  kFifo,
  // A processor that is free takes the ready task with the largest C (llm.npu, arXiv 2407.05858):
  // on the CPU, the time on the NPU of what follows it; on the NPU, minus the time on the CPU of
  // what follows it; of equals the lowest chunk. What follows a task is the next segment of its
  // chunk that needs it, though attention may have to wait for other chunks as well. Counting instead all tasks
  // that become ready, of any chunk, the order is worse than the lowest chunk first: with the
  // paper's costs the NPU idles 22.7, 16.4 and 12.8 % of the time with 2, 3 and 4 chunks.
  kLlmNpu,
  // The shortest schedule that a search over how far each chunk is finds (execute/lookahead.h), or
  // the better of the other two: it is never longer than they are and, where chunks end on the NPU,
  // its bubbles are never more.
  kLookahead,
};
// "fifo", "llm.npu" or "lookahead".
std::string_view to_string(SchedulePolicy policy) noexcept;
// Throws kInvalidArgument for any other name.
SchedulePolicy policy_from_string(const std::string& name);

struct ScheduledTask {
  ChunkTask task;
  // In seconds.
  double begin = 0;
  double end = 0;
};

struct Schedule {
  // In the order in which they begin.
  std::vector<ScheduledTask> tasks;

  // Seconds until everything is done.
  double makespan() const noexcept;
  // Seconds until the processor's last task is done.
  double end(Processor processor) const noexcept;
  // Seconds in which the processor works.
  double busy(Processor processor) const noexcept;
  // The share of the time in which the NPU idles although it has work left: until its last task.
  double bubble() const noexcept;
};

// Schedules tasks as chunk_tasks() makes them; each processor runs one at a time, and no chunk begins
// before the one that is `in_flight` before it is done. The result is the same whenever the tasks
// are. Throws kInvalidArgument for what check_tasks() refuses.
Schedule schedule(std::span<const ChunkTask> tasks, SchedulePolicy policy,
                  int in_flight = kMaxChunks);

// The number of segments of each chunk. Throws kInvalidArgument for tasks in another order, for
// chunks that differ in more than their times, for more than kMaxChunks or kMaxSegments, for times
// that are negative or not finite, and for less than one chunk in flight.
int check_tasks(std::span<const ChunkTask> tasks, int in_flight);

}  // namespace tandem
