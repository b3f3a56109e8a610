// Linears that share a float input: quantizes the input once if the kernels need that, then splits
// the panels of all weights over the threads.
#include <algorithm>

#include "devices/host/steps.h"

namespace tandem {
namespace {

class LinearStep : public Step {
 public:
  LinearStep(const StepContext& context, const std::vector<NodeId>& nodes)
      : kernels_(context.kernels) {
    const Node& first = context.segment.node(nodes.front());
    input_ = first.inputs[0];
    rows_ = context.segment.value(input_).rows;
    max_rows_ = context.max_rows(rows_);
    for (const NodeId id : nodes) {
      const Node& node = context.segment.node(id);
      linears_.push_back(pack_linear(node, DType::kF32, context.compile));
      linears_.back().output = node.output();
    }
  }

  void run(const StepRun& run) const override {
    const std::int64_t rows = run.rows(rows_);
    if (rows == 0) return;
    const float* x = run.value<float>(input_);
    if (layout().kind == PanelKind::kInt4) {
      run_int4(run, x, rows);
    } else {
      run_float(run, x, rows);
    }
  }

  // For int4 weights: the codes, scales and sums of the input's groups.
  std::int64_t scratch_bytes() const override {
    return layout().kind == PanelKind::kInt4 ? codes_bytes() + 2 * group_bytes() : 0;
  }

  std::int64_t weight_bytes() const override {
    std::int64_t bytes = 0;
    for (const PanelLinear& linear : linears_) bytes += linear.layout.bytes();
    return bytes;
  }

 private:
  const PanelLayout& layout() const noexcept { return linears_.front().layout; }
  std::int64_t groups() const noexcept { return layout().k / layout().group; }
  std::int64_t codes_bytes() const noexcept { return max_rows_ * code_stride(layout().k); }
  std::int64_t group_bytes() const noexcept { return align_up(max_rows_ * groups() * 4); }

  static LinearOutput output(const StepRun& run, const PanelLinear& linear) {
    return {run.value<float>(linear.output), linear.layout.n, linear.bias_data()};
  }

  // Calls body(row) for each row: on this thread if there is only one row, otherwise on all
  // threads.
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

  void run_float(const StepRun& run, const float* x, std::int64_t rows) const {
    for_each_panel(run.pool(), linears_, [&](const PanelLinear& linear, Range range) {
      kernels_.linear_float(linear.layout, linear.panels.bytes().data(), range, x, linear.layout.k,
                            rows, output(run, linear));
    });
  }

  void run_int4(const StepRun& run, const float* x, std::int64_t rows) const {
    const std::int64_t k = layout().k;
    const std::int64_t stride = code_stride(k);
    auto* codes = run.scratch<std::int8_t>();
    auto* scales = reinterpret_cast<float*>(run.scratch<std::byte>() + codes_bytes());
    auto* sums =
        reinterpret_cast<std::int32_t*>(run.scratch<std::byte>() + codes_bytes() + group_bytes());
    for_rows(run.pool(), rows, [&](std::int64_t r) {
      kernels_.quantize_groups(x + r * k, k, layout().group, codes + r * stride,
                               scales + r * groups(), sums + r * groups());
    });
    const GroupInt8Rows input{codes, stride, scales, sums};
    for_each_panel(run.pool(), linears_, [&](const PanelLinear& linear, Range range) {
      kernels_.linear_int4(linear.layout, linear.panels.bytes().data(), range, input, rows,
                           output(run, linear));
    });
  }

  const Kernels& kernels_;
  std::vector<PanelLinear> linears_;
  ValueId input_ = -1;
  RowSpaceId rows_ = kTokens;
  std::int64_t max_rows_ = 0;
};

// Int8 input times int8 weights. If all sums are dequantized immediately, none is ever stored.
class Int8LinearStep : public Step {
 public:
  Int8LinearStep(const StepContext& context, std::span<const Int8Member> members)
      : kernels_(context.kernels) {
    const Graph& segment = context.segment;
    input_ = segment.node(members.front().linear).inputs[0];
    const Value& codes = segment.value(input_);
    rows_ = codes.rows;
    max_rows_ = context.max_rows(rows_);
    if (codes.quantization) scale_ = codes.quantization->scales.as<float>()[0];
    for (const Int8Member& member : members) {
      const Node& node = segment.node(member.linear);
      PanelLinear linear = pack_linear(node, DType::kI8, context.compile);
      const bool sums = member.dequantize < 0;
      if (!sums) linear.bias = segment.node(member.dequantize).as<DequantizeAttributes>().bias;
      linear.output = sums ? node.output() : segment.node(member.dequantize).output();
      (sums ? to_sums_ : to_floats_).push_back(std::move(linear));
    }
  }

  void run(const StepRun& run) const override {
    const std::int64_t rows = run.rows(rows_);
    if (rows == 0) return;
    const std::int64_t k = (to_floats_.empty() ? to_sums_ : to_floats_).front().layout.k;
    const CodeRows input(run.buffer(input_), k, max_rows_);
    const StaticInt8Rows x{input.codes, input.stride, input.sums, scale_};
    for_each_panel(run.pool(), to_floats_, [&](const PanelLinear& linear, Range range) {
      const LinearOutput output{run.value<float>(linear.output), linear.layout.n,
                                linear.bias_data()};
      kernels_.linear_int8(linear.layout, linear.panels.bytes().data(), range, x, rows, output);
    });
    for_each_panel(run.pool(), to_sums_, [&](const PanelLinear& linear, Range range) {
      kernels_.linear_int8_sums(linear.layout, linear.panels.bytes().data(), range, x, rows,
                                run.value<std::int32_t>(linear.output), linear.layout.n);
    });
  }

  std::int64_t weight_bytes() const override {
    std::int64_t bytes = 0;
    for (const auto* linears : {&to_floats_, &to_sums_})
      for (const PanelLinear& linear : *linears) bytes += linear.layout.bytes();
    return bytes;
  }

 private:
  const Kernels& kernels_;
  std::vector<PanelLinear> to_floats_;
  std::vector<PanelLinear> to_sums_;
  ValueId input_ = -1;
  RowSpaceId rows_ = kTokens;
  std::int64_t max_rows_ = 0;
  // Scale of the input; 1 if each row has its own.
  float scale_ = 1;
};

}  // namespace

bool can_share_input(const Graph& segment, const Node& a, const Node& b) {
  if (a.op != Op::kLinear || b.op != Op::kLinear || a.inputs[0] != b.inputs[0]) return false;
  const DType input = segment.value(a.inputs[0]).dtype;
  const PanelLayout la = layout_for(a.as<LinearAttributes>().weight, input);
  const PanelLayout lb = layout_for(b.as<LinearAttributes>().weight, input);
  const auto is_float = [](const PanelLayout& layout) {
    return layout.kind != PanelKind::kInt4 && layout.kind != PanelKind::kInt8;
  };
  return (is_float(la) && is_float(lb)) || (la.kind == lb.kind && la.group == lb.group);
}

std::unique_ptr<Step> make_linear_step(const StepContext& context, std::vector<NodeId> nodes) {
  return std::make_unique<LinearStep>(context, nodes);
}

std::unique_ptr<Step> make_int8_linear_step(const StepContext& context,
                                            std::span<const Int8Member> members) {
  return std::make_unique<Int8LinearStep>(context, members);
}

}  // namespace tandem
