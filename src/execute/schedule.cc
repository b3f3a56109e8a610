// The tasks of a prompt, and schedules of them in simulated time.
#include "execute/schedule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>

#include "base/error.h"
#include "execute/dispatcher.h"
#include "execute/lookahead.h"

namespace tandem {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

constexpr std::array kPolicies = {SchedulePolicy::kFifo, SchedulePolicy::kLlmNpu,
                                  SchedulePolicy::kLookahead};

// Runs the tasks in time.
Schedule simulate(std::span<const ChunkTask> tasks, SchedulePolicy policy, int in_flight) {
  struct Running {
    const ChunkTask* task = nullptr;
    double end = kNever;
  };
  std::array<Running, 2> running;
  Dispatcher dispatcher(tasks, policy, in_flight);
  Schedule schedule;
  for (double now = 0; !dispatcher.all_released();) {
    for (const Processor processor : {Processor::kNpu, Processor::kCpu}) {
      Running& each = running[static_cast<std::size_t>(processor)];
      if (each.task != nullptr) continue;
      each.task = dispatcher.begin(processor);
      if (each.task == nullptr) continue;
      each.end = now + each.task->seconds;
      schedule.tasks.push_back({*each.task, now, each.end});
    }
    now = std::min(running[0].end, running[1].end);
    for (Running& each : running) {
      if (each.end > now) continue;
      dispatcher.end(*each.task);
      each = {};
    }
    while (dispatcher.lowest_done()) dispatcher.release();
  }
  return schedule;
}

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
                       segment.seconds + chunk * segment.seconds_per_chunk, segment.attention,
                       segment.beside});
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

int check_tasks(std::span<const ChunkTask> tasks, int in_flight) {
  if (in_flight < 1)
    fail(ErrorCode::kInvalidArgument, "[schedule] expected 1 chunk in flight or more, got {}",
         in_flight);
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
    if (task.processor != first.processor || task.attention != first.attention ||
        task.beside != first.beside || task.beside < 0 || task.beside > task.segment)
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

Schedule schedule(std::span<const ChunkTask> tasks, SchedulePolicy policy, int in_flight) {
  const int segments = check_tasks(tasks, in_flight);
  if (tasks.empty()) return {};
  if (policy != SchedulePolicy::kLookahead) return simulate(tasks, policy, in_flight);
  Schedule best = simulate(tasks, SchedulePolicy::kFifo, in_flight);
  Schedule other = simulate(tasks, SchedulePolicy::kLlmNpu, in_flight);
  if (is_better(other, best)) best = std::move(other);
  std::optional<Schedule> found = look_ahead(tasks, segments, in_flight, best.makespan());
  if (found && is_better(*found, best)) best = std::move(*found);
  return best;
}

}  // namespace tandem
