// The tasks of a prompt, and the policies that only look at what is ready.
#include "execute/schedule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>

#include "base/error.h"
#include "execute/lookahead.h"

namespace tandem {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

constexpr std::array kPolicies = {SchedulePolicy::kFifo, SchedulePolicy::kLlmNpu,
                                  SchedulePolicy::kLookahead};

// The number of segments of each chunk.
int check(std::span<const ChunkTask> tasks) {
  const auto next_chunk = std::ranges::find_if(tasks, [](const auto& t) { return t.chunk != 0; });
  const auto segments = static_cast<std::size_t>(next_chunk - tasks.begin());
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    const ChunkTask& task = tasks[i];
    const bool in_order = segments > 0 && task.chunk == static_cast<int>(i / segments) &&
                          task.segment == static_cast<int>(i % segments);
    if (!in_order || tasks.size() % segments != 0)
      fail(ErrorCode::kInvalidArgument,
           "[schedule] task {}: expected chunk by chunk with equally many segments, got segment {} "
           "of chunk {}",
           i, task.segment, task.chunk);
    const ChunkTask& first = tasks[i % segments];
    if (task.processor != first.processor || task.attention != first.attention)
      fail(ErrorCode::kInvalidArgument,
           "[schedule] segment {} of chunk {}: expected the processor and the needs that it has in "
           "chunk 0",
           task.segment, task.chunk);
    if (!std::isfinite(task.seconds) || task.seconds < 0)
      fail(ErrorCode::kInvalidArgument,
           "[schedule] segment {} of chunk {}: expected seconds, 0 or more, got {}", task.segment,
           task.chunk, task.seconds);
  }
  const std::size_t chunks = tasks.empty() ? 0 : tasks.size() / segments;
  if (segments > kMaxSegments || chunks > kMaxChunks)
    fail(ErrorCode::kInvalidArgument,
         "[schedule] expected at most {} chunks of {} segments, got {} of {}", kMaxChunks,
         kMaxSegments, chunks, segments);
  return static_cast<int>(segments);
}

// Runs the tasks in time, asking each processor that is free for the best of those that are ready.
class ListScheduler {
 public:
  ListScheduler(std::span<const ChunkTask> tasks, int segments, SchedulePolicy policy)
      : tasks_(tasks),
        segments_(segments),
        policy_(policy),
        chunks_(tasks.size() / static_cast<std::size_t>(segments)) {}

  Schedule run() {
    Schedule schedule;
    double now = 0;
    while (schedule.tasks.size() < tasks_.size()) {
      for (const Processor processor : {Processor::kNpu, Processor::kCpu}) {
        Running& running = running_[static_cast<std::size_t>(processor)];
        if (running.task != nullptr) continue;
        running.task = best(processor);
        if (running.task == nullptr) continue;
        chunks_[static_cast<std::size_t>(running.task->chunk)].runs = true;
        running.end = now + running.task->seconds;
        schedule.tasks.push_back({*running.task, now, running.end});
      }
      now = std::min(running_[0].end, running_[1].end);
      for (Running& running : running_) {
        if (running.end > now) continue;
        Chunk& chunk = chunks_[static_cast<std::size_t>(running.task->chunk)];
        chunk = {chunk.done + 1, false};
        running = {};
      }
    }
    return schedule;
  }

 private:
  struct Chunk {
    int done = 0;
    bool runs = false;
  };
  struct Running {
    const ChunkTask* task = nullptr;
    double end = kNever;
  };

  // C of llm.npu; the lowest chunk is the best of equals.
  double value(const ChunkTask& task) const {
    if (policy_ == SchedulePolicy::kFifo || task.segment + 1 == segments_) return 0;
    const ChunkTask& next = *(&task + 1);
    if (next.processor == task.processor) return 0;
    return task.processor == Processor::kCpu ? next.seconds : -next.seconds;
  }

  const ChunkTask* best(Processor processor) const {
    const ChunkTask* best = nullptr;
    // Segments done by all earlier chunks.
    int done_before = segments_;
    for (std::size_t i = 0; i < chunks_.size(); ++i) {
      const Chunk& chunk = chunks_[i];
      if (!chunk.runs && chunk.done < segments_) {
        const ChunkTask& task =
            tasks_[i * static_cast<std::size_t>(segments_) + static_cast<std::size_t>(chunk.done)];
        const bool ready = !task.attention || done_before >= task.segment;
        if (ready && task.processor == processor && (best == nullptr || value(task) > value(*best)))
          best = &task;
      }
      done_before = std::min(done_before, chunk.done);
    }
    return best;
  }

  std::span<const ChunkTask> tasks_;
  int segments_;
  SchedulePolicy policy_;
  std::vector<Chunk> chunks_;
  std::array<Running, 2> running_;
};

bool is_better(const Schedule& a, const Schedule& b) {
  if (a.makespan() != b.makespan()) return a.makespan() < b.makespan();
  return a.end(Processor::kNpu) < b.end(Processor::kNpu);
}

}  // namespace

std::string_view to_string(Processor processor) noexcept {
  return processor == Processor::kNpu ? "npu" : "cpu";
}

std::string_view to_string(SchedulePolicy policy) noexcept {
  switch (policy) {
    case SchedulePolicy::kFifo:
      return "fifo";
    case SchedulePolicy::kLlmNpu:
      return "llm.npu";
    case SchedulePolicy::kLookahead:
      return "lookahead";
  }
  return "unknown";
}

SchedulePolicy policy_from_string(const std::string& name) {
  for (const SchedulePolicy policy : kPolicies)
    if (name == to_string(policy)) return policy;
  fail(ErrorCode::kInvalidArgument,
       "[schedule] policy: expected \"fifo\", \"llm.npu\" or \"lookahead\", got \"{}\"", name);
}

std::vector<ChunkTask> chunk_tasks(std::span<const ChunkSegment> segments, int chunks) {
  std::vector<ChunkTask> tasks;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    int index = 0;
    for (const ChunkSegment& segment : segments)
      tasks.push_back({chunk, index++, segment.processor,
                       segment.seconds + chunk * segment.seconds_per_chunk, segment.attention});
  }
  return tasks;
}

double Schedule::makespan() const noexcept {
  return std::max(end(Processor::kNpu), end(Processor::kCpu));
}

double Schedule::end(Processor processor) const noexcept {
  double last = 0;
  for (const ScheduledTask& each : tasks)
    if (each.task.processor == processor) last = std::max(last, each.end);
  return last;
}

double Schedule::busy(Processor processor) const noexcept {
  double sum = 0;
  for (const ScheduledTask& each : tasks)
    if (each.task.processor == processor) sum += each.end - each.begin;
  return sum;
}

double Schedule::bubble() const noexcept {
  const double last = end(Processor::kNpu);
  return last > 0 ? std::max(0.0, 1 - busy(Processor::kNpu) / last) : 0;
}

Schedule schedule(std::span<const ChunkTask> tasks, SchedulePolicy policy) {
  const int segments = check(tasks);
  if (tasks.empty()) return {};
  if (policy != SchedulePolicy::kLookahead) return ListScheduler(tasks, segments, policy).run();
  Schedule best = ListScheduler(tasks, segments, SchedulePolicy::kFifo).run();
  Schedule other = ListScheduler(tasks, segments, SchedulePolicy::kLlmNpu).run();
  if (is_better(other, best)) best = std::move(other);
  std::optional<Schedule> found = look_ahead(tasks, segments, best.makespan());
  if (found && is_better(*found, best)) best = std::move(*found);
  return best;
}

}  // namespace tandem
