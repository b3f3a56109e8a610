// Turns a segment into steps, and plans the memory of values internal to the program.
#include "devices/host/host_program.h"

#include <algorithm>

#include "base/error.h"
#include "devices/host/steps.h"
#include "devices/memory_plan.h"
#include "graph/uses.h"

namespace tandem {
namespace {

struct PlannedStep {
  std::unique_ptr<Step> step;
  std::vector<NodeId> nodes;
};

class StepPlanner {
 public:
  explicit StepPlanner(const StepContext& context)
      : context_(context), segment_(context.segment), uses_(context.segment) {
    const auto nodes = static_cast<NodeId>(segment_.nodes().size());
    fused_.assign(static_cast<std::size_t>(nodes), -1);
    for (NodeId id = 0; id < nodes; ++id) find_fused(id);
  }

  std::vector<PlannedStep> plan() {
    const auto nodes = static_cast<NodeId>(segment_.nodes().size());
    for (NodeId id = 0; id < nodes;) {
      if (is_absorbed(id)) {
        ++id;
      } else if (segment_.node(id).op == Op::kLinear) {
        id = add_linears(id);
      } else if (segment_.node(id).op == Op::kGroupQueryAttention) {
        add_attention(id);
        ++id;
      } else {
        id = add_row_wise(id);
      }
    }
    return std::move(steps_);
  }

  // Sums that are read only by a Dequantize are never stored, nor what an attention in integers
  // rotates itself.
  bool is_stored(ValueId value) const {
    const NodeId producer = uses_.producer(value);
    if (producer >= 0 && is_rotated_by_attention(producer)) return false;
    return producer < 0 || segment_.node(producer).op != Op::kLinear ||
           fused_[static_cast<std::size_t>(producer)] < 0;
  }

 private:
  // Whether a Linear multiplies int8 or int16 codes.
  bool reads_codes(const Node& node) const {
    return node.op == Op::kLinear && segment_.value(node.inputs[0]).dtype != DType::kF32;
  }

  // Finds the Dequantize that can be fused with this Linear.
  void find_fused(NodeId id) {
    const Node& node = segment_.node(id);
    if (!reads_codes(node) || uses_.is_output(node.output())) return;
    const auto readers = uses_.readers(node.output());
    if (readers.size() != 1) return;
    const Node& reader = segment_.node(readers.front());
    // No kernel fuses a Dequantize with a scale per row.
    if (reader.op != Op::kDequantize || reader.inputs.size() != 1) return;
    fused_[static_cast<std::size_t>(id)] = readers.front();
  }

  bool is_rotated_by_attention(NodeId id) const {
    const Node& node = segment_.node(id);
    if (context_.context == 0 || node.op != Op::kRotaryEmbedding) return false;
    const auto readers = uses_.readers(node.output());
    return readers.size() == 1 && segment_.node(readers.front()).op == Op::kGroupQueryAttention;
  }

  void add_attention(NodeId id) {
    if (context_.context == 0) {
      steps_.push_back({make_attention_step(context_, id), {id}});
      return;
    }
    std::vector<NodeId> nodes;
    for (const ValueId input : segment_.node(id).inputs)
      if (const NodeId producer = uses_.producer(input);
          producer >= 0 && is_rotated_by_attention(producer))
        nodes.push_back(producer);
    nodes.push_back(id);
    steps_.push_back({make_int_attention_step(context_, id), std::move(nodes)});
  }

  bool is_absorbed(NodeId id) const {
    const Node& node = segment_.node(id);
    if (is_rotated_by_attention(id)) return true;
    return node.op == Op::kDequantize && !is_stored(node.inputs[0]);
  }

  // Collects the Linears from `id` on that share its input, skipping nodes fused with them.
  NodeId add_linears(NodeId id) {
    const Node& first = segment_.node(id);
    const bool codes = reads_codes(first);
    std::vector<NodeId> linears;
    std::vector<NodeId> nodes;
    const auto end = static_cast<NodeId>(segment_.nodes().size());
    for (; id < end; ++id) {
      if (is_absorbed(id)) continue;
      const Node& node = segment_.node(id);
      if (node.op != Op::kLinear || !can_share_input(segment_, first, node)) break;
      linears.push_back(id);
      nodes.push_back(id);
      if (const NodeId fused = fused_[static_cast<std::size_t>(id)]; fused >= 0)
        nodes.push_back(fused);
    }
    if (codes) {
      std::vector<Int8Member> members;
      for (const NodeId linear : linears)
        members.push_back({linear, fused_[static_cast<std::size_t>(linear)]});
      const bool wide = segment_.value(first.inputs[0]).dtype == DType::kI16;
      const auto make_step = wide ? make_int16_linear_step : make_int8_linear_step;
      steps_.push_back({make_step(context_, members), std::move(nodes)});
    } else {
      steps_.push_back({make_linear_step(context_, linears), std::move(nodes)});
    }
    return id;
  }

  NodeId add_row_wise(NodeId id) {
    const Node& first = segment_.node(id);
    if (!is_row_wise(first.op))
      fail(ErrorCode::kInternal, "[host] {}: no kernels for {}", first.name, to_string(first.op));
    std::vector<NodeId> nodes{id++};
    const auto end = static_cast<NodeId>(segment_.nodes().size());
    // Two nodes may run back to back on the same share of rows only if their rows correspond.
    for (; id < end; ++id) {
      if (is_absorbed(id)) continue;
      const Node& node = segment_.node(id);
      const bool joins =
          is_row_wise(node.op) && node.op != Op::kSelectRows &&
          segment_.value(node.outputs[0]).rows == segment_.value(first.outputs[0]).rows;
      if (!joins) break;
      nodes.push_back(id);
    }
    steps_.push_back({make_row_wise_step(context_, nodes), nodes});
    return id;
  }

  const StepContext& context_;
  const Graph& segment_;
  Uses uses_;
  // By node: the Dequantize fused with this Linear; -1: none.
  std::vector<NodeId> fused_;
  std::vector<PlannedStep> steps_;
};

// Positions are found by following parents, which therefore have to come before their rows.
void check_tree(const SequenceSlice& slice) {
  if (slice.parents.empty()) return;
  if (std::ssize(slice.parents) != slice.rows)
    fail(ErrorCode::kInvalidArgument, "[program] parents of {} rows, expected {}",
         slice.parents.size(), slice.rows);
  for (std::size_t row = 0; row < slice.parents.size(); ++row)
    if (slice.parents[row] < -1 || slice.parents[row] >= static_cast<std::int32_t>(row))
      fail(ErrorCode::kInvalidArgument,
           "[program] row {} continues row {}: expected an earlier one, or -1", row,
           slice.parents[row]);
}

class HostProgram : public Program {
 public:
  HostProgram(const StepContext& context, RowCount rows) {
    const Graph& segment = context.segment;
    if (rows == RowCount::kFixed) needs_.fixed_rows = context.compile.spec.rows;
    StepPlanner planner(context);
    std::vector<PlannedStep> planned = planner.plan();
    plan_values(context, planner, planned);
    // Values first, then the scratch memory of the steps.
    values_bytes_ = needs_.scratch_bytes;
    std::int64_t step_bytes = 0;
    for (PlannedStep& step : planned) {
      step_bytes = std::max(step_bytes, step.step->scratch_bytes());
      needs_.weight_bytes += step.step->weight_bytes();
      steps_.push_back(std::move(step.step));
    }
    needs_.scratch_bytes += align_up(step_bytes);
    for (std::size_t i = 0; i < segment.inputs().size(); ++i)
      slot(segment.inputs()[i]) = {Slot::Place::kInput, static_cast<std::int64_t>(i)};
    for (std::size_t i = 0; i < segment.outputs().size(); ++i)
      slot(segment.outputs()[i]) = {Slot::Place::kOutput, static_cast<std::int64_t>(i)};
  }

  const Needs& needs() const noexcept override { return needs_; }

  void run(const RunContext& context) const override {
    for (const SequenceSlice& slice : context.slices) check_tree(slice);
    const StepRun run(context, slots_, needs_.fixed_rows, context.scratch + values_bytes_);
    for (const auto& step : steps_) step->run(run);
  }

 private:
  Slot& slot(ValueId id) { return slots_[static_cast<std::size_t>(id)]; }

  // Allocates values that are neither inputs nor outputs of the segment.
  void plan_values(const StepContext& context, const StepPlanner& planner,
                   const std::vector<PlannedStep>& planned) {
    const Graph& segment = context.segment;
    std::vector<Lifetime> lifetimes(segment.values().size());
    for (std::size_t s = 0; s < planned.size(); ++s) {
      for (const NodeId id : planned[s].nodes) {
        const Node& node = segment.node(id);
        for (const ValueId input : node.inputs)
          lifetimes[static_cast<std::size_t>(input)].last = static_cast<int>(s);
        for (const ValueId output : node.outputs) {
          if (!planner.is_stored(output)) continue;
          const Value& value = segment.value(output);
          lifetimes[static_cast<std::size_t>(output)] = {
              buffer_bytes(value, context.max_rows(value.rows)), static_cast<int>(s),
              static_cast<int>(s)};
        }
      }
    }
    for (const auto* border : {&segment.inputs(), &segment.outputs()})
      for (const ValueId id : *border) lifetimes[static_cast<std::size_t>(id)] = {};
    const MemoryPlan plan = plan_memory(lifetimes);
    needs_.scratch_bytes = plan.bytes;
    slots_.resize(lifetimes.size());
    for (std::size_t v = 0; v < lifetimes.size(); ++v)
      if (plan.offsets[v] >= 0) slots_[v] = {Slot::Place::kScratch, plan.offsets[v]};
  }

  Needs needs_;
  std::vector<Slot> slots_;
  std::int64_t values_bytes_ = 0;
  std::vector<std::unique_ptr<Step>> steps_;
};

}  // namespace

std::unique_ptr<Program> compile_for_host(const Graph& segment, const Kernels& kernels,
                                          const CompileContext& context, RowCount rows) {
  const StepContext steps{segment, kernels, context,
                          rows == RowCount::kFixed ? context.spec.context : 0};
  return std::make_unique<HostProgram>(steps, rows);
}

}  // namespace tandem
