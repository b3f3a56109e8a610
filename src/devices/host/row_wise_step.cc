// Row-wise operators: a run of them is one step, in which each thread takes a share of the rows
// through all operators.
#include <algorithm>

#include "devices/host/row_functions.h"

namespace tandem {
namespace {

// Below this many floats a step runs on the calling thread: waking the others would take longer.
constexpr std::int64_t kSmallStep = 16384;

class RowWiseStep : public Step {
 public:
  RowWiseStep(const StepContext& context, const std::vector<NodeId>& nodes)
      : kernels_(context.kernels), threads_(context.compile.pool.threads()) {
    for (const NodeId id : nodes) {
      const Node& node = context.segment.node(id);
      ops_.push_back({node, row_function(node.op), {}, {}});
      RowOp& op = ops_.back();
      for (const ValueId input : node.inputs) op.inputs.push_back(operand(context, input));
      for (const ValueId output : node.outputs) op.outputs.push_back(operand(context, output));
      width_ += op.outputs.front().value.width;
      if (node.op == Op::kRotaryAngles)
        thread_bytes_ = std::max(thread_bytes_, align_up(op.outputs.front().value.width / 2 * 4));
    }
  }

  void run(const StepRun& run) const override {
    // Only SelectRows changes the row space, and it starts a new run of nodes.
    const std::int64_t rows = run.rows(ops_.front().outputs.front().value.rows);
    if (rows * width_ < kSmallStep) {
      run_rows(run, {0, rows}, 0);
      return;
    }
    run.pool().run([&](int thread) {
      const Range range = partition(rows, thread, run.pool().threads());
      // Row by row, so that one operator's output is still in the cache when the next one reads it.
      for (std::int64_t row = range.begin; row < range.end; ++row)
        run_rows(run, {row, row + 1}, thread);
    });
  }

  std::int64_t scratch_bytes() const override { return threads_ * thread_bytes_; }

 private:
  static RowOperand operand(const StepContext& context, ValueId id) {
    const Value& value = context.segment.value(id);
    return {id, value, context.max_rows(value.rows)};
  }

  void run_rows(const StepRun& run, Range range, int thread) const {
    float* scratch = reinterpret_cast<float*>(run.scratch<std::byte>() + thread * thread_bytes_);
    for (const RowOp& op : ops_) op.function({kernels_, run, op, range, scratch});
  }

  const Kernels& kernels_;
  int threads_;
  std::vector<RowOp> ops_;
  std::int64_t width_ = 0;
  std::int64_t thread_bytes_ = 0;
};

}  // namespace

bool is_row_wise(Op op) noexcept { return row_function(op) != nullptr; }

std::unique_ptr<Step> make_row_wise_step(const StepContext& context, std::vector<NodeId> nodes) {
  return std::make_unique<RowWiseStep>(context, nodes);
}

}  // namespace tandem
