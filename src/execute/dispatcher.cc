// Policies that look at what is ready, and one that follows a schedule.
#include "execute/dispatcher.h"

#include <algorithm>

namespace tandem {
namespace {

std::size_t index(Processor processor) { return static_cast<std::size_t>(processor); }

}  // namespace

Dispatcher::Dispatcher(std::span<const ChunkTask> tasks, SchedulePolicy policy, int in_flight)
    : tasks_(tasks),
      segments_(check_tasks(tasks, in_flight)),
      policy_(policy),
      in_flight_(static_cast<std::size_t>(in_flight)),
      ended_(tasks.size()) {
  if (tasks.empty()) return;
  std::array<int, 2> first{segments_, segments_};
  for (int j = segments_; j-- > 0;) {
    int& next = first[index(task(0, j).processor)];
    next_.push_back(next);
    next = j;
    int follower = j + 1;
    while (follower < segments_ && follower - task(0, follower).beside <= j) ++follower;
    follower_.push_back(follower);
  }
  std::ranges::reverse(next_);
  std::ranges::reverse(follower_);
  chunks_.assign(tasks.size() / static_cast<std::size_t>(segments_), {first, 0});
  if (policy != SchedulePolicy::kLookahead) return;
  for (const ScheduledTask& each : schedule(tasks, policy, in_flight).tasks)
    plan_[index(each.task.processor)].push_back(
        &task(static_cast<std::size_t>(each.task.chunk), each.task.segment));
}

const ChunkTask* Dispatcher::begin(Processor processor) {
  const ChunkTask* found =
      policy_ == SchedulePolicy::kLookahead ? planned(processor) : best(processor);
  if (found == nullptr) return nullptr;
  int& next = chunks_[static_cast<std::size_t>(found->chunk)].next[index(processor)];
  next = next_[static_cast<std::size_t>(next)];
  ++begun_[index(processor)];
  return found;
}

void Dispatcher::end(const ChunkTask& task) {
  const auto first = static_cast<std::size_t>(task.chunk) * static_cast<std::size_t>(segments_);
  ended_[first + static_cast<std::size_t>(task.segment)] = true;
  int& done = chunks_[static_cast<std::size_t>(task.chunk)].done;
  while (done < segments_ && ended_[first + static_cast<std::size_t>(done)]) ++done;
}

// `done_before`: segments that all earlier chunks have done.
bool Dispatcher::ready(const ChunkTask& task, int done_before) const {
  return done(static_cast<std::size_t>(task.chunk)) >= task.segment - task.beside &&
         (!task.attention || done_before > task.segment);
}

// C of llm.npu; the lowest chunk is the best of equals.
double Dispatcher::value(const ChunkTask& task) const {
  const int follower = follower_[static_cast<std::size_t>(task.segment)];
  if (policy_ == SchedulePolicy::kFifo || follower == segments_) return 0;
  const ChunkTask& next = this->task(static_cast<std::size_t>(task.chunk), follower);
  if (next.processor == task.processor) return 0;
  return task.processor == Processor::kCpu ? next.seconds : -next.seconds;
}

const ChunkTask* Dispatcher::best(Processor processor) const {
  const ChunkTask* best = nullptr;
  int done_before = segments_;
  const std::size_t end = std::min(chunks_.size(), lowest_ + in_flight_);
  for (std::size_t i = lowest_; i < end; ++i) {
    const int next = chunks_[i].next[index(processor)];
    if (next < segments_ && ready(task(i, next), done_before) &&
        (best == nullptr || value(task(i, next)) > value(*best)))
      best = &task(i, next);
    done_before = std::min(done_before, done(i));
  }
  return best;
}

const ChunkTask* Dispatcher::planned(Processor processor) const {
  const auto& plan = plan_[index(processor)];
  const std::size_t begun = begun_[index(processor)];
  if (begun == plan.size()) return nullptr;
  const ChunkTask& next = *plan[begun];
  const auto chunk = static_cast<std::size_t>(next.chunk);
  if (chunk >= lowest_ + in_flight_) return nullptr;
  int done_before = segments_;
  for (std::size_t i = lowest_; i < chunk; ++i) done_before = std::min(done_before, done(i));
  return ready(next, done_before) ? &next : nullptr;
}

}  // namespace tandem
