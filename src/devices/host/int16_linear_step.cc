// Linears on int16 codes, out of the kernels for int8: x = 256 h + l, with h and l in [-128, 127], so
// that the sum of a row's products is 256 times that of h plus that of l, exactly, in int64.
#include <algorithm>

#include "base/error.h"
#include "devices/host/steps.h"
#include "graph/ops.h"

namespace tandem {
namespace {

class Int16LinearStep : public Step {
 public:
  Int16LinearStep(const StepContext& context, std::span<const Int8Member> members)
      : kernels_(context.kernels) {
    const Graph& segment = context.segment;
    input_ = segment.node(members.front().linear).inputs[0];
    rows_ = segment.value(input_).rows;
    max_rows_ = context.max_rows(rows_);
    for (const Int8Member& member : members) {
      const Node& node = segment.node(member.linear);
      const auto& quantization = segment.value(node.output()).quantization;
      if (!quantization)
        fail(ErrorCode::kInternal, "[host] {}: expected int16 codes with a scale", node.name);
      Part part{pack_linear(node, DType::kI16, context.compile), member.dequantize < 0,
                quantization->scales, columns_};
      if (!part.gives_sums)
        part.linear.bias = segment.node(member.dequantize).as<DequantizeAttributes>().bias;
      part.linear.output =
          part.gives_sums ? node.output() : segment.node(member.dequantize).output();
      columns_ += part.linear.layout.n;
      parts_.push_back(std::move(part));
    }
  }

  void run(const StepRun& run) const override {
    const std::int64_t rows = run.rows(rows_);
    if (rows == 0) return;
    auto* scratch = run.scratch<std::byte>();
    const CodeRows high(scratch, k(), max_rows_), low(scratch + half_bytes(), k(), max_rows_);
    const auto* x = run.value<std::int16_t>(input_);
    run.pool().parallel_for(rows, 1, [&](Range range) {
      for (std::int64_t row = range.begin; row < range.end; ++row) split(x, row, high, low);
    });
    auto* sums = reinterpret_cast<std::int32_t*>(scratch + 2 * half_bytes());
    for (const Part& part : parts_)
      for_each_panel(run.pool(), std::span(&part.linear, 1),
                     [&](const PanelLinear& linear, Range panels) {
                       std::int32_t* of_high = sums + max_rows_ * part.first_column;
                       std::int32_t* of_low = of_high + max_rows_ * columns_;
                       multiply(linear, panels, high, rows, of_high);
                       multiply(linear, panels, low, rows, of_low);
                       combine(run, part, panels, rows, of_high, of_low);
                     });
  }

  // The halves of the input, then the sums of each.
  std::int64_t scratch_bytes() const override {
    return 2 * half_bytes() + align_up(2 * max_rows_ * columns_ * 4);
  }

  std::int64_t weight_bytes() const override {
    std::int64_t bytes = 0;
    for (const Part& part : parts_) bytes += part.linear.layout.bytes();
    return bytes;
  }

 private:
  struct Part {
    PanelLinear linear;
    // Nobody but a Dequantize reads them otherwise.
    bool gives_sums = false;
    // Of the sums: F32 [n] or [1].
    Tensor scales;
    // Among those of all Linears.
    std::int64_t first_column = 0;
  };

  std::int64_t k() const noexcept { return parts_.front().linear.layout.k; }
  std::int64_t half_bytes() const noexcept {
    return align_up(max_rows_ * 4) + align_up(max_rows_ * code_stride(k()));
  }

  void split(const std::int16_t* x, std::int64_t row, const CodeRows& high,
             const CodeRows& low) const {
    std::int8_t* h = high.codes + row * high.stride;
    std::int8_t* l = low.codes + row * low.stride;
    std::int32_t sum_of_high = 0, sum_of_low = 0;
    for (std::int64_t i = 0; i < k(); ++i) {
      const int code = std::min<int>(x[row * k() + i], kMaxInt16Code);
      const int upper = (code + 128) >> 8, lower = code - upper * 256;
      h[i] = static_cast<std::int8_t>(upper);
      l[i] = static_cast<std::int8_t>(lower);
      sum_of_high += upper;
      sum_of_low += lower;
    }
    std::fill(h + k(), h + padded_k(k()), std::int8_t{0});
    std::fill(l + k(), l + padded_k(k()), std::int8_t{0});
    high.sums[row] = sum_of_high;
    low.sums[row] = sum_of_low;
  }

  void multiply(const PanelLinear& linear, Range panels, const CodeRows& codes, std::int64_t rows,
                std::int32_t* sums) const {
    kernels_.linear_int8_sums(linear.layout, linear.panels.bytes().data(), panels,
                              {codes.codes, codes.stride, codes.sums, 1}, rows, sums,
                              linear.layout.n);
  }

  // y = float(sum) * scale (+ bias), as Dequantize has it. Doubles hold the sums exactly.
  static void combine(const StepRun& run, const Part& part, Range panels, std::int64_t rows,
                      const std::int32_t* of_high, const std::int32_t* of_low) {
    const std::int64_t n = part.linear.layout.n;
    const std::int64_t begin = panels.begin * kPanelColumns;
    const std::int64_t end = std::min(n, panels.end * kPanelColumns);
    const float* scales = part.scales.as<float>().data();
    const bool per_channel = part.scales.elements() > 1;
    const float* bias = part.linear.bias_data();
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int32_t* high = of_high + row * n;
      const std::int32_t* low = of_low + row * n;
      if (part.gives_sums) {
        auto* sums = run.value<std::int64_t>(part.linear.output) + row * n;
        for (std::int64_t c = begin; c < end; ++c) sums[c] = 256 * std::int64_t{high[c]} + low[c];
        continue;
      }
      float* y = run.value<float>(part.linear.output) + row * n;
      for (std::int64_t c = begin; c < end; ++c)
        y[c] = static_cast<float>(256.0 * high[c] + low[c]) * scales[per_channel ? c : 0];
      for (std::int64_t c = begin; bias != nullptr && c < end; ++c) y[c] += bias[c];
    }
  }

  const Kernels& kernels_;
  std::vector<Part> parts_;
  // Output channels of all Linears.
  std::int64_t columns_ = 0;
  ValueId input_ = -1;
  RowSpaceId rows_ = kTokens;
  std::int64_t max_rows_ = 0;
};

}  // namespace

std::unique_ptr<Step> make_int16_linear_step(const StepContext& context,
                                             std::span<const Int8Member> members) {
  return std::make_unique<Int16LinearStep>(context, members);
}

}  // namespace tandem
