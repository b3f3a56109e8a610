// What a processor that is free does next: the policies, for schedules in simulated time and for
// chunks that really run.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "execute/schedule.h"

namespace tandem {

class Dispatcher {
 public:
  // Tasks as for schedule(), which it checks; they must outlive the dispatcher. At most `in_flight`
  // chunks are begun and not released.
  Dispatcher(std::span<const ChunkTask> tasks, SchedulePolicy policy, int in_flight);

  // The task that the processor begins now, if there is one for it. The processor is free.
  const ChunkTask* begin(Processor processor);
  // A task that was begun is done.
  void end(const ChunkTask& task);
  // Whether the lowest chunk that is not released is done.
  bool lowest_done() const noexcept {
    return lowest_ < chunks_.size() && done(lowest_) == segments_;
  }
  // Gives the place of the lowest chunk, which is done, to the next one.
  void release() noexcept { ++lowest_; }
  bool all_released() const noexcept { return lowest_ == chunks_.size(); }

 private:
  struct Chunk {
    // By processor: its next segment; beyond all if there is none.
    std::array<int, 2> next{};
    // All segments before this one are done.
    int done = 0;
  };

  int done(std::size_t chunk) const { return chunks_[chunk].done; }
  const ChunkTask& task(std::size_t chunk, int segment) const {
    return tasks_[chunk * static_cast<std::size_t>(segments_) + static_cast<std::size_t>(segment)];
  }
  bool ready(const ChunkTask& task, int done_before) const;
  double value(const ChunkTask& task) const;
  const ChunkTask* best(Processor processor) const;
  const ChunkTask* planned(Processor processor) const;

  std::span<const ChunkTask> tasks_;
  int segments_;
  SchedulePolicy policy_;
  std::size_t in_flight_;
  // By segment: the next one of the same processor, and the next one that needs it.
  std::vector<int> next_;
  std::vector<int> follower_;
  std::vector<Chunk> chunks_;
  // By task.
  std::vector<bool> ended_;
  std::size_t lowest_ = 0;
  // For kLookahead: by processor, its tasks in the order of the schedule, and how many are begun.
  std::array<std::vector<const ChunkTask*>, 2> plan_;
  std::array<std::size_t, 2> begun_{};
};

}  // namespace tandem
