#include "runtime/executor.h"

#include <algorithm>

#include "base/error.h"

namespace tandem {
namespace {

constexpr std::int64_t kAlignFloats = 16;  // 64 bytes

// When a value is alive, in segments: from the one that writes it to the last that reads it.
// Threads of one segment may be at different nodes, so memory is handed on only between segments.
struct Lifetime {
  std::int64_t floats = 0;
  int first = -1;
  int last = -1;
  std::int64_t offset = -1;
};

std::vector<Lifetime> lifetimes(const Graph& graph, const Placement& placement,
                                std::int64_t max_rows, std::int64_t max_selected) {
  std::vector<Lifetime> values(graph.values().size());
  for (std::size_t v = 0; v < values.size(); ++v) {
    const Value& value = graph.values()[v];
    const std::int64_t rows = value.rows == Rows::kTokens ? max_rows : max_selected;
    values[v].floats = (rows * value.width + kAlignFloats - 1) / kAlignFloats * kAlignFloats;
  }
  for (std::size_t s = 0; s < placement.segments.size(); ++s) {
    for (NodeId id = placement.segments[s].begin; id < placement.segments[s].end; ++id) {
      const Node& node = graph.node(id);
      for (const ValueId input : node.inputs)
        values[static_cast<std::size_t>(input)].last = static_cast<int>(s);
      Lifetime& output = values[static_cast<std::size_t>(node.output)];
      output.first = output.last = static_cast<int>(s);
    }
  }
  values[static_cast<std::size_t>(graph.output)].last = static_cast<int>(placement.segments.size());
  return values;
}

// First fit in the order of creation: the lowest offset at which no value alive at the same time
// lies.
std::int64_t assign_offsets(std::vector<Lifetime>& values) {
  std::vector<Lifetime*> placed;
  std::vector<Lifetime*> order;
  for (Lifetime& value : values) {
    if (value.first >= 0) order.push_back(&value);
  }
  std::sort(order.begin(), order.end(), [](const Lifetime* a, const Lifetime* b) {
    return a->first != b->first ? a->first < b->first : a < b;  // elements of one vector
  });
  std::int64_t total = 0;
  for (Lifetime* value : order) {
    std::sort(placed.begin(), placed.end(),
              [](const auto* a, const auto* b) { return a->offset < b->offset; });
    std::int64_t offset = 0;
    for (const Lifetime* other : placed) {
      const bool alive_together = other->first <= value->last && value->first <= other->last;
      if (alive_together && other->offset < offset + value->floats &&
          offset < other->offset + other->floats) {
        offset = other->offset + other->floats;
      }
    }
    value->offset = offset;
    total = std::max(total, offset + value->floats);
    placed.push_back(value);
    // What has ended before this value began can't meet any later one.
    std::erase_if(placed, [&](const Lifetime* other) { return other->last < value->first; });
  }
  return total;
}

}  // namespace

Executor::Executor(const Graph& graph, Phase phase, std::span<const Device* const> devices,
                   const CompileContext& context)
    : graph_(graph),
      placement_(place(graph, phase, devices)),
      max_rows_(context.max_rows),
      max_selected_(context.max_selected) {
  for (const Segment& segment : placement_.segments) {
    programs_.push_back(
        devices[segment.device]->compile(graph, segment.begin, segment.end, context));
  }
  std::vector<Lifetime> values = lifetimes(graph, placement_, max_rows_, max_selected_);
  std::byte* data = nullptr;
  memory_ = Tensor::allocate(DType::kF32, {assign_offsets(values)}, &data);
  for (const Lifetime& value : values) {
    values_.push_back(value.offset < 0 ? nullptr : reinterpret_cast<float*>(data) + value.offset);
  }
}

std::span<const float> Executor::run(ThreadPool& pool, std::span<const std::int32_t> ids,
                                     std::span<const SequenceSlice> slices,
                                     std::span<const std::int32_t> selected) {
  const auto rows = static_cast<std::int64_t>(ids.size());
  const auto wanted = static_cast<std::int64_t>(selected.size());
  if (rows < 1 || rows > max_rows_ || wanted > max_selected_) {
    fail(ErrorCode::kInternal, "[executor] {} rows and {} logit rows, made for at most {} and {}",
         rows, wanted, max_rows_, max_selected_);
  }
  const RunContext context{pool, ids, slices, selected, values_};
  for (const auto& program : programs_) program->run(context);
  const std::int64_t vocabulary = graph_.value(graph_.output).width;
  return {values_[static_cast<std::size_t>(graph_.output)],
          static_cast<std::size_t>(wanted * vocabulary)};
}

std::int64_t Executor::weight_bytes() const noexcept {
  std::int64_t bytes = 0;
  for (const auto& program : programs_) bytes += program->weight_bytes();
  return bytes;
}

}  // namespace tandem
