// A graph prepared for running in one phase: placed, split into segments, compiled. An executor is
// immutable; the memory of a run is in an arena, so that runs on different arenas can overlap, and
// segments of one run on different devices (execute/pipeline.h).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "devices/device.h"
#include "devices/memory_plan.h"
#include "devices/placement.h"
#include "execute/trace.h"
#include "execute/work.h"

namespace tandem {

// A device and the threads that its programs run on.
struct DeviceThreads {
  const Device* device = nullptr;
  ThreadPool* pool = nullptr;
};

// Memory for one run at a time: values passed between segments, and scratch.
class Arena {
 public:
  std::int64_t bytes() const noexcept { return memory_.elements(); }

 private:
  friend class Executor;
  Tensor memory_;
  std::byte* data_ = nullptr;
  // By value: where the current run has it.
  std::vector<std::byte*> buffers_;
  // The same for the inputs and outputs of each segment, one after the other.
  std::vector<std::byte*> borders_;
  // The current run's number in its trace.
  std::int64_t chunk_ = 0;
};

class Executor {
 public:
  // `max_rows`: maximum rows per run of each row space except tokens, for which it is spec.rows.
  // Devices are in order of preference; they and their pools must outlive the executor, the graph
  // need not.
  Executor(const Graph& graph, const PhaseSpec& spec, std::span<const DeviceThreads> devices,
           PanelCache& panels, std::span<const std::int64_t> max_rows);

  Arena make_arena() const;

  struct Run {
    // One per input of the graph, in the graph's order.
    std::span<const void* const> inputs;
    // Number of rows in this run, by row space.
    std::span<const std::int64_t> rows;
    std::span<const SequenceSlice> slices;
    // One per output of the graph, with room for all rows. A null pointer, or an empty span, leaves
    // outputs in the arena.
    std::span<void* const> outputs = {};
    // Gets an event for each segment, if there is one.
    TraceRecorder* trace = nullptr;
  };
  // Runs all segments, one after the other. Outputs without memory of their own are in the arena
  // until its next run. Throws kInternal for more rows than the executor was made for, and what
  // programs throw; the arena stays usable.
  void run(const Run& run, Arena& arena) const;
  // The same in parts: begin(), then each segment once, after those that it needs (Segment::beside).
  // Segments of different devices may run at once, on the same arena too. `chunk`: the run's number
  // in its trace. Returns the seconds that the segment took.
  void begin(const Run& run, Arena& arena, std::int64_t chunk) const;
  double run_segment(std::size_t segment, const Run& run, Arena& arena) const;
  // An output of the last run, [rows of its space, width].
  const float* output(const Arena& arena, std::size_t index) const {
    return reinterpret_cast<const float*>(
        arena.buffers_[static_cast<std::size_t>(outputs_[index])]);
  }

  const PhaseSpec& spec() const noexcept { return placement_.spec; }
  std::int64_t max_rows(RowSpaceId space) const {
    return max_rows_[static_cast<std::size_t>(space)];
  }
  const Placement& placement() const noexcept { return placement_; }
  // Whether the segment is one of attention, which also needs the same segment of earlier chunks of
  // its sequences: it writes their keys and values.
  bool has_attention(std::size_t segment) const { return stages_[segment].attention; }
  // How much a segment has to do, roughly, as multiply-adds of int8.
  double work(std::size_t segment, const Run& run) const;
  // Packed weights read in one run.
  std::int64_t weight_bytes() const noexcept;

 private:
  // A segment's program, and the values it reads and writes.
  struct Stage {
    std::unique_ptr<Program> program;
    ThreadPool* pool = nullptr;
    // For traces.
    std::string name;
    std::vector<ValueId> inputs;
    std::vector<ValueId> outputs;
    // Of the first input among the borders of all segments; its outputs follow its inputs.
    std::size_t first_border = 0;
    // Where the scratch memory of its device begins.
    std::int64_t scratch_offset = 0;
    bool attention = false;
    Work work;
  };
  void plan(const Graph& graph);

  Placement placement_;
  std::vector<std::int64_t> max_rows_;
  std::vector<Stage> stages_;
  std::vector<ValueId> inputs_;
  std::vector<ValueId> outputs_;
  // By value; -1: inside a program, or an input.
  std::vector<std::int64_t> offsets_;
  std::size_t borders_ = 0;
  std::int64_t arena_bytes_ = 0;
};

}  // namespace tandem
