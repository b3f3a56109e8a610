// A trace: what ran when, on which device, as the Chrome trace event format that chrome://tracing
// and Perfetto show.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "devices/device.h"
#include "execute/schedule.h"

namespace tandem {

// A program's run: a segment of the graph over the rows of a chunk.
struct TraceEvent {
  std::string device;
  // One of the segment's modules.
  std::string name;
  // Whose programs run.
  Phase phase = Phase::kPrefill;
  // Of the run of all segments that this is a part of, counted from the first in the trace.
  std::int64_t chunk = 0;
  // In the order in which a chunk runs them.
  std::int64_t segment = 0;
  // 0 if there are none, as in simulations.
  std::int64_t rows = 0;
  // In microseconds.
  double begin = 0;
  double end = 0;
};

struct Trace {
  // In any order.
  std::vector<TraceEvent> events;

  // The NPU first, then in the order in which they are first used.
  std::vector<std::string> devices() const;
  // Microseconds from the first event's begin to the last one's end.
  double makespan() const;
  // Microseconds in which a device works.
  double busy(std::string_view device) const;
  // How long the NPU works and idles while prompts are read, in microseconds: each from the first
  // segment of its first chunk to its last one on the NPU. Chunks of a prompt follow each other in
  // their numbers.
  struct NpuTime {
    double busy = 0;
    double idle = 0;
    // Idle time as a share of all.
    double bubble() const { return busy + idle > 0 ? idle / (busy + idle) : 0; }
  };
  NpuTime npu_time() const;
};

// As if the schedule had run, from time 0 on.
Trace to_trace(const Schedule& schedule);

// A row for each device; phase, chunk, segment and rows are arguments of the events.
std::string to_chrome_json(const Trace& trace);
// Reads what to_chrome_json() writes, and of other such files the complete events ("ph": "X").
// Throws kFormat naming the file and the place, also if there are none.
Trace read_trace(const fs::path& path);

// Records what executors run. Several threads may add events.
class TraceRecorder {
 public:
  using Clock = std::chrono::steady_clock;

  // The number of a run of all segments.
  std::int64_t begin_chunk();
  // Sets the event's times, in microseconds since the recorder was made.
  void add(TraceEvent event, Clock::time_point begin, Clock::time_point end);
  // What was recorded so far.
  Trace trace() const;

 private:
  const Clock::time_point start_ = Clock::now();
  mutable std::mutex mutex_;
  std::int64_t chunks_ = 0;
  Trace trace_;
};

}  // namespace tandem
