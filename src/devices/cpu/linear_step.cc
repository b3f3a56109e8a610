// Linears that share an input: quantize the input once, then split the panels of all weights over
// the threads.
#include <algorithm>

#include "devices/cpu/steps.h"

namespace tandem {
namespace {

bool is_float_panel(PanelKind kind) noexcept {
  return kind != PanelKind::kInt8 && kind != PanelKind::kInt4;
}

class LinearStep : public Step {
 public:
  LinearStep(const StepContext& context, const std::vector<NodeId>& nodes)
      : kernels_(context.kernels), scratch_(context.scratch) {
    const Node& first = context.graph.node(nodes.front());
    input_ = first.inputs[0];
    rows_ = context.graph.value(input_).rows;
    for (const NodeId id : nodes)
      linears_.push_back(pack_linear(context.graph.node(id), context.compile));
    const PanelLayout& layout = linears_.front().layout;
    if (!is_float_panel(layout.kind)) {
      const std::int64_t groups = layout.kind == PanelKind::kInt4 ? layout.k / layout.group : 1;
      const std::int64_t rows =
          rows_ == Rows::kTokens ? context.compile.max_rows : context.compile.max_selected;
      scratch_->reserve_rows(rows, layout.k, groups);
    }
  }

  void run(const RunContext& context) override {
    const std::int64_t rows = rows_ == Rows::kTokens
                                  ? context.rows()
                                  : static_cast<std::int64_t>(context.selected.size());
    if (rows == 0) return;
    const float* x = context.values[static_cast<std::size_t>(input_)];
    switch (linears_.front().layout.kind) {
      case PanelKind::kInt4:
        run_int4(context, x, rows);
        break;
      case PanelKind::kInt8:
        run_int8(context, x, rows);
        break;
      default:
        run_float(context, x, rows);
        break;
    }
  }

  std::int64_t weight_bytes() const override {
    std::int64_t bytes = 0;
    for (const PackedLinear& linear : linears_) bytes += linear.layout.bytes();
    return bytes;
  }

 private:
  static LinearOutput output(const RunContext& context, const PackedLinear& linear) {
    return {context.values[static_cast<std::size_t>(linear.output)], linear.layout.n,
            linear.bias.empty() ? nullptr : linear.bias.as<float>().data()};
  }

  // Calls body(row) for each row: on this thread when there is one, on all otherwise.
  template <typename Body>
  static void for_rows(ThreadPool& pool, std::int64_t rows, Body&& body) {
    if (rows == 1) {
      body(0);
      return;
    }
    pool.parallel_for(rows, 1, [&](Range range) {
      for (std::int64_t r = range.begin; r < range.end; ++r) body(r);
    });
  }

  void run_float(const RunContext& context, const float* x, std::int64_t rows) {
    for_each_panel(context.pool, linears_, [&](const PackedLinear& linear, Range range) {
      kernels_.linear_float(linear.layout, linear.panels.bytes().data(), range, x, linear.layout.k,
                            rows, output(context, linear));
    });
  }

  void run_int4(const RunContext& context, const float* x, std::int64_t rows) {
    const PanelLayout& layout = linears_.front().layout;
    const std::int64_t groups = layout.k / layout.group;
    const std::int64_t stride = code_stride(layout.k);
    for_rows(context.pool, rows, [&](std::int64_t r) {
      kernels_.quantize_groups(x + r * layout.k, layout.k, layout.group,
                               scratch_->codes() + r * stride, scratch_->scales() + r * groups,
                               scratch_->sums() + r * groups);
    });
    const GroupInt8Rows input{scratch_->codes(), stride, scratch_->scales(), scratch_->sums()};
    for_each_panel(context.pool, linears_, [&](const PackedLinear& linear, Range range) {
      kernels_.linear_int4(linear.layout, linear.panels.bytes().data(), range, input, rows,
                           output(context, linear));
    });
  }

  void run_int8(const RunContext& context, const float* x, std::int64_t rows) {
    const PackedLinear& first = linears_.front();
    const std::int64_t stride = code_stride(first.layout.k);
    for_rows(context.pool, rows, [&](std::int64_t r) {
      kernels_.quantize_static(x + r * first.layout.k, first.layout.k, first.input_scale,
                               scratch_->codes() + r * stride, scratch_->sums() + r);
    });
    run_int8_linears(kernels_, linears_,
                     {scratch_->codes(), stride, scratch_->sums(), first.input_scale}, rows,
                     context);
  }

  const Kernels& kernels_;
  std::shared_ptr<Scratch> scratch_;
  std::vector<PackedLinear> linears_;
  ValueId input_ = -1;
  Rows rows_ = Rows::kTokens;
};

}  // namespace

bool can_share_input(const Node& a, const Node& b) noexcept {
  if (a.op != Op::kLinear || b.op != Op::kLinear || a.inputs[0] != b.inputs[0]) return false;
  const Weight& wa = a.as<LinearAttributes>().weight;
  const Weight& wb = b.as<LinearAttributes>().weight;
  if (wa.index() != wb.index()) return false;
  if (const auto* int4 = std::get_if<Int4Groups>(&wa))
    return int4->group == std::get<Int4Groups>(wb).group;
  if (const auto* int8 = std::get_if<Int8Channels>(&wa)) {
    return int8->input_scale == std::get<Int8Channels>(wb).input_scale;
  }
  return true;
}

std::unique_ptr<Step> make_linear_step(const StepContext& context, std::vector<NodeId> nodes) {
  return std::make_unique<LinearStep>(context, nodes);
}

}  // namespace tandem
