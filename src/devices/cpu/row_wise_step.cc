// Row-wise operators: a run of them is one step, each thread taking a share of the rows through all
// of them.
#include <algorithm>

#include "devices/cpu/steps.h"

namespace tandem {
namespace {

// Below this many floats a step runs on the calling thread: waking the others would take longer.
constexpr std::int64_t kSmallStep = 16384;

struct RowOp {
  const Node* node;
  Rows rows;
  std::int64_t width;  // of the output
  ValueId a = -1, b = -1, y = -1;
  std::shared_ptr<RotaryTableSet> rotary;
};

class RowWiseStep : public Step {
 public:
  RowWiseStep(const StepContext& context, const std::vector<NodeId>& nodes)
      : kernels_(context.kernels) {
    for (const NodeId id : nodes) {
      const Node& node = context.graph.node(id);
      const Value& output = context.graph.value(node.output);
      RowOp op{&node, output.rows, output.width, node.inputs[0], -1, node.output, nullptr};
      if (node.inputs.size() > 1) op.b = node.inputs[1];
      if (node.op == Op::kRotaryEmbedding)
        op.rotary = context.rotary->get(node.as<RotaryAttributes>());
      width_ += op.width;
      ops_.push_back(std::move(op));
    }
  }

  void run(const RunContext& context) override {
    // Rows of a run are tokens, then wanted rows: SelectRows changes what a row is, so it begins a
    // new run.
    const std::int64_t rows = count(context, ops_.front().rows);
    for (const RowOp& op : ops_) {
      if (op.rotary) op.rotary->prepare(context.slices);
    }
    if (rows * width_ < kSmallStep) {
      run_rows(context, {0, rows});
    } else {
      context.pool.parallel_for(rows, 1, [&](Range range) {
        // Row by row, so that what one operator writes is still in the cache when the next reads
        // it.
        for (std::int64_t row = range.begin; row < range.end; ++row)
          run_rows(context, {row, row + 1});
      });
    }
  }

 private:
  static std::int64_t count(const RunContext& context, Rows rows) {
    return rows == Rows::kTokens ? context.rows()
                                 : static_cast<std::int64_t>(context.selected.size());
  }

  void run_rows(const RunContext& context, Range range) const {
    for (const RowOp& op : ops_) {
      float* y = context.values[static_cast<std::size_t>(op.y)];
      const float* a = context.values[static_cast<std::size_t>(op.a)];
      const float* b = op.b < 0 ? nullptr : context.values[static_cast<std::size_t>(op.b)];
      switch (op.node->op) {
        case Op::kEmbedding:
          embed(context, op, range, y);
          break;
        case Op::kSelectRows:
          select(context, op, range, a, y);
          break;
        case Op::kRotaryEmbedding:
          rotate(context, op, range, a, y);
          break;
        case Op::kRmsNorm: {
          const auto& norm = op.node->as<RmsNormAttributes>();
          const float* weight = norm.weight.as<float>().data();
          const std::int64_t width = op.width / norm.heads;
          for (std::int64_t part = range.begin * norm.heads; part < range.end * norm.heads; ++part)
            kernels_.rms_norm(a + part * width, weight, norm.epsilon, width, y + part * width);
          break;
        }
        // Rows are contiguous: a range of rows is one long row.
        case Op::kSilu:
          kernels_.silu(a + range.begin * op.width, range.size() * op.width,
                        y + range.begin * op.width);
          break;
        case Op::kGelu:
          kernels_.gelu(a + range.begin * op.width, range.size() * op.width,
                        y + range.begin * op.width);
          break;
        case Op::kSoftcap:
          kernels_.softcap(a + range.begin * op.width, op.node->as<SoftcapAttributes>().cap,
                           range.size() * op.width, y + range.begin * op.width);
          break;
        case Op::kAdd:
        case Op::kMul: {
          const std::int64_t begin = range.begin * op.width;
          const auto kernel = op.node->op == Op::kAdd ? kernels_.add : kernels_.mul;
          kernel(a + begin, b + begin, range.size() * op.width, y + begin);
          break;
        }
        case Op::kLinear:
        case Op::kGroupQueryAttention:
          break;  // never in a row-wise step
      }
    }
  }

  static void embed(const RunContext& context, const RowOp& op, Range range, float* y) {
    const auto& [table, scale] = op.node->as<EmbeddingAttributes>();
    for (std::int64_t r = range.begin; r < range.end; ++r) {
      const std::span<float> row(y + r * op.width, static_cast<std::size_t>(op.width));
      table.copy_floats(context.ids[static_cast<std::size_t>(r)] * op.width, row);
      if (scale == 1) continue;
      for (float& value : row) value *= scale;
    }
  }

  static void select(const RunContext& context, const RowOp& op, Range range, const float* x,
                     float* y) {
    for (std::int64_t r = range.begin; r < range.end; ++r) {
      const std::int64_t from = context.selected[static_cast<std::size_t>(r)];
      std::copy_n(x + from * op.width, op.width, y + r * op.width);
    }
  }

  void rotate(const RunContext& context, const RowOp& op, Range range, const float* x,
              float* y) const {
    const auto& rotary = op.node->as<RotaryAttributes>();
    for (const SequenceSlice& slice : context.slices) {
      const std::int64_t begin = std::max(range.begin, slice.first_row);
      const std::int64_t end = std::min(range.end, slice.first_row + slice.rows);
      if (begin >= end) continue;
      const RotaryTable& table = op.rotary->of(slice);
      for (std::int64_t r = begin; r < end; ++r) {
        const std::int64_t position = slice.position + r - slice.first_row;
        if (x != y) std::copy_n(x + r * op.width, op.width, y + r * op.width);
        kernels_.rope(y + r * op.width, rotary.heads, rotary.head_dim, 2 * table.half(),
                      table.cos(position), table.sin(position));
      }
    }
  }

  const Kernels& kernels_;
  std::vector<RowOp> ops_;
  std::int64_t width_ = 0;
};

}  // namespace

bool is_row_wise(Op op) noexcept { return op != Op::kLinear && op != Op::kGroupQueryAttention; }

std::unique_ptr<Step> make_row_wise_step(const StepContext& context, std::vector<NodeId> nodes) {
  return std::make_unique<RowWiseStep>(context, nodes);
}

}  // namespace tandem
