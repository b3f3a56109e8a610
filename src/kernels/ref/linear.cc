// Matrix products over panels, one output at a time in the order stated in kernels.h.
#include <cmath>
#include <cstring>

#include "kernels/ref/ref.h"
#include "tensor/half.h"

namespace tandem::ref {

namespace {

// Calls visit(column, panel, column in the panel) for the output channels of panels [range),
// without padding.
template <typename Visit>
void for_columns(const PanelLayout& layout, const std::byte* panels, Range range, Visit&& visit) {
  const std::int64_t bytes = layout.panel_bytes();
  for (std::int64_t p = range.begin; p < range.end; ++p)
    for (std::int64_t c = 0; c < kPanelColumns && p * kPanelColumns + c < layout.n; ++c)
      visit(p * kPanelColumns + c, panels + p * bytes, c);
}

template <typename T>
T load(const std::byte* from, std::int64_t index) {
  T value;
  std::memcpy(&value, from + index * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return value;
}

float panel_value(PanelKind kind, const std::byte* panel, std::int64_t index) {
  if (kind == PanelKind::kF32) return load<float>(panel, index);
  const auto half = load<std::uint16_t>(panel, index);
  return kind == PanelKind::kF16 ? f16_to_float(half) : bf16_to_float(half);
}

void store(const LinearOutput& out, std::int64_t row, std::int64_t column, float value) {
  out.y[row * out.stride + column] = out.bias ? value + out.bias[column] : value;
}

// sum_k x[k] * code[k] of one output, the codes signed.
std::int32_t int8_sum(const std::byte* panel, std::int64_t column, const std::int8_t* x,
                      std::int64_t k) {
  std::int32_t sum = 0;
  for (std::int64_t i = 0; i < k; ++i) {
    const auto code = load<std::uint8_t>(
        panel, i / kInt8StepK * kStepBytes + column * kInt8StepK + i % kInt8StepK);
    sum += (code - kInt8Offset) * x[i];
  }
  return sum;
}

}  // namespace

void linear_float(const PanelLayout& layout, const std::byte* panels, Range range, const float* x,
                  std::int64_t x_stride, std::int64_t rows, const LinearOutput& out) noexcept {
  for_columns(layout, panels, range, [&](std::int64_t column, const std::byte* panel, auto c) {
    for (std::int64_t r = 0; r < rows; ++r) {
      float sum = 0;
      for (std::int64_t i = 0; i < layout.k; ++i)
        sum = std::fma(x[r * x_stride + i], panel_value(layout.kind, panel, i * kPanelColumns + c),
                       sum);
      store(out, r, column, sum);
    }
  });
}

void linear_int8(const PanelLayout& layout, const std::byte* panels, Range range,
                 const StaticInt8Rows& x, std::int64_t rows, const LinearOutput& out) noexcept {
  for_columns(layout, panels, range, [&](std::int64_t column, const std::byte* panel, auto c) {
    const float scale = x.scale * load<float>(panel + int8_code_bytes(layout.k), c);
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int32_t sum = int8_sum(panel, c, x.codes + r * x.stride, layout.k);
      store(out, r, column, static_cast<float>(sum) * scale);
    }
  });
}

void linear_int8_sums(const PanelLayout& layout, const std::byte* panels, Range range,
                      const StaticInt8Rows& x, std::int64_t rows, std::int32_t* sums,
                      std::int64_t stride) noexcept {
  for_columns(layout, panels, range, [&](std::int64_t column, const std::byte* panel, auto c) {
    for (std::int64_t r = 0; r < rows; ++r)
      sums[r * stride + column] = int8_sum(panel, c, x.codes + r * x.stride, layout.k);
  });
}

void linear_int4(const PanelLayout& layout, const std::byte* panels, Range range,
                 const GroupInt8Rows& x, std::int64_t rows, const LinearOutput& out) noexcept {
  const std::int64_t groups = layout.k / layout.group;
  for_columns(layout, panels, range, [&](std::int64_t column, const std::byte* panel, auto c) {
    for (std::int64_t r = 0; r < rows; ++r) {
      float result = 0;
      for (std::int64_t g = 0; g < groups; ++g) {
        const std::byte* codes = panel + g * int4_group_bytes(layout.group);
        const std::byte* end = codes + int4_code_bytes(layout.group);
        const std::int8_t* activations = x.codes + r * x.stride + g * layout.group;
        std::int32_t sum = 0;
        for (std::int64_t i = 0; i < layout.group; ++i) {
          const auto pair = load<std::uint8_t>(codes, i / kInt4StepK * kStepBytes + c * 4 + i % 4);
          sum += (i % kInt4StepK < 4 ? pair & 15 : pair >> 4) * activations[i];
        }
        const float scale = f16_to_float(load<std::uint16_t>(int4_scales(end), c));
        const std::int32_t zero_point = load<std::uint8_t>(int4_zeros(end), c);
        sum -= zero_point * x.sums[r * groups + g];
        result = std::fma(static_cast<float>(sum), x.scales[r * groups + g] * scale, result);
      }
      store(out, r, column, result);
    }
  });
}

std::int64_t int8_peak_loop(std::int64_t iterations, std::int32_t* sink) noexcept {
  constexpr int kChains = 16;
  std::uint32_t sums[kChains] = {};
  const std::uint32_t factor = static_cast<std::uint32_t>(*sink) & 0x7F;
  for (std::int64_t i = 0; i < iterations; ++i)
    for (std::uint32_t c = 0; c < kChains; ++c)
      sums[c] += ((static_cast<std::uint32_t>(i) + c) & 0x7F) * factor;
  std::uint32_t total = 0;
  for (const std::uint32_t sum : sums) total += sum;
  *sink = static_cast<std::int32_t>(total);
  return iterations * kChains * 2;
}

}  // namespace tandem::ref
