// Compiles the segments of a placement, plans the memory between them, and runs them in order.
#include "execute/executor.h"

#include <algorithm>

#include "base/error.h"
#include "devices/buffers.h"
#include "graph/extract.h"

namespace tandem {
namespace {

// That of its first matrix product or attention, which take the most time, or of its first node.
std::string name_of(const Graph& graph, const Segment& segment) {
  const auto node = [&](NodeId id) -> const Node& {
    return graph.nodes()[static_cast<std::size_t>(id)];
  };
  const auto heavy = std::ranges::find_if(segment.nodes, [&](NodeId id) {
    return node(id).op == Op::kLinear || node(id).op == Op::kGroupQueryAttention;
  });
  return node(heavy == segment.nodes.end() ? segment.nodes.front() : *heavy).name;
}

}  // namespace

Executor::Executor(const Graph& graph, const PhaseSpec& spec,
                   std::span<const DeviceThreads> devices, PanelCache& panels,
                   std::span<const std::int64_t> max_rows)
    : max_rows_{spec.rows}, inputs_(graph.inputs()), outputs_(graph.outputs()) {
  max_rows_.insert(max_rows_.end(), max_rows.begin(), max_rows.end());
  if (max_rows_.size() != graph.row_spaces().size())
    fail(ErrorCode::kInternal, "[executor] rows of {} spaces for a graph of {}", max_rows_.size(),
         graph.row_spaces().size());
  std::vector<const Device*> preference;
  for (const DeviceThreads& device : devices) preference.push_back(device.device);
  placement_ = place(graph, spec, preference);
  for (const Segment& segment : placement_.segments) {
    const DeviceThreads& device = devices[segment.device];
    const CompileContext context{*device.pool, panels, spec, max_rows_};
    Extracted part = extract(graph, segment.nodes);
    Stage stage{device.device->compile(part.graph, context),
                device.pool,
                name_of(graph, segment),
                std::move(part.inputs),
                std::move(part.outputs),
                borders_};
    borders_ += stage.inputs.size() + stage.outputs.size();
    for (const NodeId id : segment.nodes) {
      stage.attention |= graph.node(id).op == Op::kGroupQueryAttention;
      stage.work += work_of(graph, graph.node(id));
    }
    stages_.push_back(std::move(stage));
  }
  plan(graph);
}

// Allocates the values passed between segments. Threads in one segment may be at different nodes,
// so memory is only reused between segments; and what a segment writes is in no memory that those
// beside it use. Each device has scratch memory of its own.
void Executor::plan(const Graph& graph) {
  std::vector<Lifetime> lifetimes(graph.values().size());
  std::vector<std::int64_t> scratch(placement_.devices.size());
  const auto count = static_cast<int>(stages_.size());
  for (int s = 0; s < count; ++s) {
    const Stage& stage = stages_[static_cast<std::size_t>(s)];
    const Segment& segment = placement_.segments[static_cast<std::size_t>(s)];
    for (const ValueId id : stage.inputs) lifetimes[static_cast<std::size_t>(id)].last = s;
    for (const ValueId id : stage.outputs) {
      const Value& value = graph.value(id);
      lifetimes[static_cast<std::size_t>(id)] = {buffer_bytes(value, max_rows(value.rows)),
                                                 s - static_cast<int>(segment.beside), s};
    }
    std::int64_t& most = scratch[segment.device];
    most = std::max(most, stage.program->needs().scratch_bytes);
  }
  for (const ValueId id : inputs_) lifetimes[static_cast<std::size_t>(id)].first = -1;
  for (const ValueId id : outputs_) lifetimes[static_cast<std::size_t>(id)].last = count;
  MemoryPlan values = plan_memory(lifetimes);
  offsets_ = std::move(values.offsets);
  arena_bytes_ = values.bytes;
  for (std::size_t device = 0; device < scratch.size(); ++device) {
    for (std::size_t s = 0; s < stages_.size(); ++s)
      if (placement_.segments[s].device == device) stages_[s].scratch_offset = arena_bytes_;
    arena_bytes_ += align_up(scratch[device]);
  }
}

Arena Executor::make_arena() const {
  Arena arena;
  arena.memory_ =
      Tensor::allocate(DType::kU8, {std::max<std::int64_t>(arena_bytes_, 1)}, &arena.data_);
  arena.buffers_.assign(offsets_.size(), nullptr);
  arena.borders_.assign(borders_, nullptr);
  return arena;
}

void Executor::begin(const Run& run, Arena& arena, std::int64_t chunk) const {
  if (run.inputs.size() != inputs_.size() || run.rows.size() != max_rows_.size() ||
      (!run.outputs.empty() && run.outputs.size() != outputs_.size()))
    fail(ErrorCode::kInternal,
         "[executor] {} inputs, {} row counts and {} outputs given, expected {}, {} and {}",
         run.inputs.size(), run.rows.size(), run.outputs.size(), inputs_.size(), max_rows_.size(),
         outputs_.size());
  for (std::size_t space = 0; space < max_rows_.size(); ++space)
    if (run.rows[space] < (space == kTokens ? 1 : 0) || run.rows[space] > max_rows_[space])
      fail(ErrorCode::kInternal, "[executor] {} rows in space {}, made for at most {}",
           run.rows[space], space, max_rows_[space]);
  for (std::size_t v = 0; v < offsets_.size(); ++v)
    arena.buffers_[v] = offsets_[v] < 0 ? nullptr : arena.data_ + offsets_[v];
  // Programs only read their inputs.
  for (std::size_t i = 0; i < inputs_.size(); ++i)
    arena.buffers_[static_cast<std::size_t>(inputs_[i])] =
        static_cast<std::byte*>(const_cast<void*>(run.inputs[i]));
  for (std::size_t i = 0; i < run.outputs.size(); ++i)
    if (run.outputs[i] != nullptr)
      arena.buffers_[static_cast<std::size_t>(outputs_[i])] =
          static_cast<std::byte*>(run.outputs[i]);
  auto border = arena.borders_.begin();
  for (const Stage& stage : stages_)
    for (const std::vector<ValueId>* ids : {&stage.inputs, &stage.outputs})
      for (const ValueId id : *ids) *border++ = arena.buffers_[static_cast<std::size_t>(id)];
  arena.chunk_ = chunk;
}

double Executor::run_segment(std::size_t segment, const Run& run, Arena& arena) const {
  const Stage& stage = stages_[segment];
  const std::span<std::byte* const> borders = std::span(arena.borders_).subspan(stage.first_border);
  const RunContext context{*stage.pool,
                           run.rows,
                           run.slices,
                           borders.first(stage.inputs.size()),
                           borders.subspan(stage.inputs.size(), stage.outputs.size()),
                           arena.data_ + stage.scratch_offset};
  const auto begin = TraceRecorder::Clock::now();
  stage.program->run(context);
  const auto end = TraceRecorder::Clock::now();
  if (run.trace != nullptr)
    run.trace->add({.device = placement_.devices[placement_.segments[segment].device],
                    .name = stage.name,
                    .phase = placement_.spec.phase,
                    .chunk = arena.chunk_,
                    .segment = static_cast<std::int64_t>(segment),
                    .rows = run.rows[kTokens]},
                   begin, end);
  return std::chrono::duration<double>(end - begin).count();
}

void Executor::run(const Run& run, Arena& arena) const {
  begin(run, arena, run.trace != nullptr ? run.trace->begin_chunk() : 0);
  for (std::size_t s = 0; s < stages_.size(); ++s) run_segment(s, run, arena);
}

double Executor::work(std::size_t segment, const Run& run) const {
  const Stage& stage = stages_[segment];
  const std::int64_t fixed = stage.program->needs().fixed_rows;
  return total(stage.work, fixed > 0 ? fixed : run.rows[kTokens], run.slices);
}

std::int64_t Executor::weight_bytes() const noexcept {
  std::int64_t bytes = 0;
  for (const Stage& stage : stages_) bytes += stage.program->needs().weight_bytes;
  return bytes;
}

}  // namespace tandem
