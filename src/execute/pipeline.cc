// Two workers that ask the same dispatcher for what to do next.
#include "execute/pipeline.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

#include "base/error.h"
#include "execute/dispatcher.h"

namespace tandem {
namespace {

// Of a device that was never measured: about right for small segments of a processor.
constexpr double kSecondsPerUnit = 1e-11;
// Earlier measurements of a segment count for so much less with every new one.
constexpr double kForget = 0.5;

// One run of a pipeline.
class Flight {
 public:
  Flight(std::span<const Pipeline::Chunk> chunks, std::span<const ChunkTask> tasks,
         SchedulePolicy policy, const std::function<void(std::size_t)>& finished)
      : chunks_(chunks),
        segments_(tasks.size() / chunks.size()),
        dispatcher_(tasks, policy, Pipeline::kChunks),
        finished_(finished),
        seconds_(tasks.size()) {
    for (const Pipeline::Chunk& chunk : chunks)
      numbers_.push_back(chunk.run.trace != nullptr ? chunk.run.trace->begin_chunk() : 0);
    for (std::size_t i = 0; i < std::min<std::size_t>(chunks.size(), Pipeline::kChunks); ++i)
      begin(i);
  }

  void run() {
    std::thread npu;
    try {
      npu = std::thread([this] { work(Processor::kNpu); });
    } catch (const std::system_error& error) {
      fail(ErrorCode::kIo, "[pipeline] the system refused a thread: {}", error.what());
    }
    work(Processor::kCpu);
    npu.join();
    if (failure_) std::rethrow_exception(failure_);
  }

  // By task.
  const std::vector<double>& seconds() const { return seconds_; }

 private:
  void begin(std::size_t i) {
    chunks_[i].executor->begin(chunks_[i].run, *chunks_[i].arena, numbers_[i]);
  }

  void work(Processor processor) {
    std::unique_lock lock(mutex_);
    while (!failure_ && !dispatcher_.all_released()) {
      // Only one of the two workers, which is that of the calling thread, hands chunks over.
      const bool hands_over = processor == Processor::kCpu && dispatcher_.lowest_done();
      const ChunkTask* task = hands_over ? nullptr : dispatcher_.begin(processor);
      if (!hands_over && task == nullptr) {
        changed_.wait(lock);
        continue;
      }
      lock.unlock();
      std::exception_ptr failure;
      try {
        hands_over ? hand_over() : run(*task);
      } catch (...) {
        failure = std::current_exception();
      }
      lock.lock();
      if (failure && !failure_) failure_ = failure;
      if (task != nullptr) dispatcher_.end(*task);
      if (hands_over) dispatcher_.release();
      changed_.notify_all();
    }
  }

  void run(const ChunkTask& task) {
    const auto chunk = static_cast<std::size_t>(task.chunk);
    const auto segment = static_cast<std::size_t>(task.segment);
    seconds_[chunk * segments_ + segment] =
        chunks_[chunk].executor->run_segment(segment, chunks_[chunk].run, *chunks_[chunk].arena);
  }

  void hand_over() {
    finished_(handed_over_);
    const std::size_t next = handed_over_++ + Pipeline::kChunks;
    if (next < chunks_.size()) begin(next);
  }

  std::span<const Pipeline::Chunk> chunks_;
  std::size_t segments_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Dispatcher dispatcher_;
  std::exception_ptr failure_;
  const std::function<void(std::size_t)>& finished_;
  std::size_t handed_over_ = 0;
  std::vector<std::int64_t> numbers_;
  std::vector<double> seconds_;
};

void check_same(const Placement& a, const Placement& b) {
  const bool same = a.devices == b.devices && a.devices.size() <= 2 &&
                    std::ranges::equal(a.segments, b.segments, [](const auto& x, const auto& y) {
                      return x.device == y.device && x.nodes == y.nodes;
                    });
  if (!same)
    fail(ErrorCode::kInternal, "[pipeline] expected the same segments on one or two devices");
}

}  // namespace

void Pipeline::run(std::span<const Chunk> chunks,
                   const std::function<void(std::size_t)>& finished) {
  for (std::size_t first = 0; first < chunks.size(); first += kPlanned)
    run_planned(chunks.subspan(first, std::min(kPlanned, chunks.size() - first)),
                [&](std::size_t i) { finished(first + i); });
}

void Pipeline::run_planned(std::span<const Chunk> chunks,
                           const std::function<void(std::size_t)>& finished) {
  const std::vector<ChunkTask> tasks = tasks_of(chunks);
  const bool overlaps = chunks.size() > 1 || std::ranges::any_of(tasks, [](const auto& task) {
                          return task.beside > 0;
                        });
  if (!overlaps) {
    chunks.front().executor->run(chunks.front().run, *chunks.front().arena);
    finished(0);
    return;
  }
  Flight flight(chunks, tasks, policy_, finished);
  flight.run();
  for (std::size_t i = 0; i < tasks.size(); ++i)
    learn(chunks[static_cast<std::size_t>(tasks[i].chunk)],
          static_cast<std::size_t>(tasks[i].segment), flight.seconds()[i]);
}

std::vector<ChunkTask> Pipeline::tasks_of(std::span<const Chunk> chunks) {
  const Placement& placement = chunks.front().executor->placement();
  device_paces_.resize(placement.devices.size());
  std::vector<ChunkTask> tasks;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const Executor& executor = *chunks[i].executor;
    check_same(placement, executor.placement());
    paces_[&executor].resize(placement.segments.size());
    for (std::size_t j = 0; j < placement.segments.size(); ++j) {
      const Segment& segment = placement.segments[j];
      const bool is_last = segment.device + 1 == placement.devices.size();
      tasks.push_back({.chunk = static_cast<int>(i),
                       .segment = static_cast<int>(j),
                       .processor = is_last ? Processor::kCpu : Processor::kNpu,
                       .seconds = seconds_of(chunks[i], j),
                       .attention = executor.has_attention(j),
                       .beside = static_cast<int>(segment.beside)});
    }
  }
  return tasks;
}

double Pipeline::seconds_of(const Chunk& chunk, std::size_t segment) {
  const Executor& executor = *chunk.executor;
  Pace pace = paces_[&executor][segment];
  if (pace.work <= 0) pace = device_paces_[executor.placement().segments[segment].device];
  if (pace.work <= 0) pace = {1, kSecondsPerUnit};
  return executor.work(segment, chunk.run) * pace.seconds / pace.work;
}

void Pipeline::learn(const Chunk& chunk, std::size_t segment, double seconds) {
  const Executor& executor = *chunk.executor;
  const double work = executor.work(segment, chunk.run);
  for (Pace* pace :
       {&paces_[&executor][segment], &device_paces_[executor.placement().segments[segment].device]})
    *pace = {kForget * pace->work + work, kForget * pace->seconds + seconds};
}

}  // namespace tandem
