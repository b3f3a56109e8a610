// The row-wise operators. Float rows are contiguous, so that elementwise operators treat a range of
// rows as one long row.
#include "devices/host/row_functions.h"

#include <algorithm>
#include <array>

#include "graph/ops.h"
#include "graph/rotary.h"

namespace tandem {
namespace {

void embed(const RowRun& r) {
  const auto& [table, scale] = r.op.node.as<EmbeddingAttributes>();
  const auto* ids = r.in<std::int32_t>(0);
  for (std::int64_t row = r.range.begin; row < r.range.end; ++row) {
    const std::span<float> y(r.out() + row * r.width(), static_cast<std::size_t>(r.width()));
    table.copy_floats(ids[row] * r.width(), y);
    if (scale == 1) continue;
    for (float& value : y) value *= scale;
  }
}

void norm(const RowRun& r) {
  const auto& a = r.op.node.as<RmsNormAttributes>();
  const float* weight = a.weight.as<float>().data();
  const std::int64_t width = r.width() / a.heads;
  for (std::int64_t part = r.range.begin * a.heads; part < r.range.end * a.heads; ++part)
    r.kernels.rms_norm(r.in(0) + part * width, weight, a.epsilon, width, r.out() + part * width);
}

// Calls body(slice, first row, last row) for each sequence's share of the range.
template <typename Body>
void for_slices(const RowRun& r, Body&& body) {
  for (const SequenceSlice& slice : r.run.slices()) {
    const std::int64_t begin = std::max(r.range.begin, slice.first_row);
    const std::int64_t end = std::min(r.range.end, slice.first_row + slice.rows);
    if (begin < end) body(slice, begin, end);
  }
}

void angles(const RowRun& r) {
  const auto& a = r.op.node.as<RotaryAnglesAttributes>();
  const std::int64_t half = r.width() / 2;
  const std::span<float> frequencies(r.scratch, static_cast<std::size_t>(half));
  for_slices(r, [&](const SequenceSlice& slice, std::int64_t begin, std::int64_t end) {
    write_frequencies(a, rotary_epoch(a.extension, slice.length()), frequencies);
    for (std::int64_t row = begin; row < end; ++row) {
      write_angles(frequencies, slice.position_of(row - slice.first_row), a.attention_factor,
                   r.out() + row * r.width());
    }
  });
}

void rotate(const RowRun& r) {
  const auto& a = r.op.node.as<RotaryAttributes>();
  const std::int64_t rotary_dim = r.op.inputs[1].value.width;
  for (std::int64_t row = r.range.begin; row < r.range.end; ++row) {
    const float* cosines = r.in(1) + row * rotary_dim;
    float* y = r.out() + row * r.width();
    std::copy_n(r.in(0) + row * r.width(), r.width(), y);
    r.kernels.rope(y, a.heads, a.head_dim, rotary_dim, cosines, cosines + rotary_dim / 2);
  }
}

void select(const RowRun& r) {
  const auto* numbers = r.in<std::int32_t>(1);
  for (std::int64_t row = r.range.begin; row < r.range.end; ++row)
    std::copy_n(r.in(0) + numbers[row] * r.width(), r.width(), r.out() + row * r.width());
}

// First element and count of a range of rows.
std::int64_t first(const RowRun& r) { return r.range.begin * r.width(); }
std::int64_t count(const RowRun& r) { return r.range.size() * r.width(); }

void silu(const RowRun& r) { r.kernels.silu(r.in(0) + first(r), count(r), r.out() + first(r)); }

void gelu(const RowRun& r) { r.kernels.gelu(r.in(0) + first(r), count(r), r.out() + first(r)); }

void softcap(const RowRun& r) {
  r.kernels.softcap(r.in(0) + first(r), r.op.node.as<SoftcapAttributes>().cap, count(r),
                    r.out() + first(r));
}

void add(const RowRun& r) {
  r.kernels.add(r.in(0) + first(r), r.in(1) + first(r), count(r), r.out() + first(r));
}

void mul(const RowRun& r) {
  r.kernels.mul(r.in(0) + first(r), r.in(1) + first(r), count(r), r.out() + first(r));
}

// Padding rows get zero codes, whatever the input contains there.
void quantize(const RowRun& r) {
  const float scale = r.op.node.as<QuantizeAttributes>().scale;
  const std::int64_t k = r.width();
  const CodeRows y = r.codes(r.op.outputs[0]);
  const std::int64_t given = r.run.given_rows(r.op.outputs[0].value.rows);
  for (std::int64_t row = r.range.begin; row < r.range.end; ++row) {
    std::int8_t* codes = y.codes + row * y.stride;
    if (row < given) {
      r.kernels.quantize_static(r.in(0) + row * k, k, scale, codes, y.sums + row);
    } else {
      std::fill_n(codes, padded_k(k), std::int8_t{0});
      y.sums[row] = 0;
    }
  }
}

void quantize_int16(const RowRun& r) {
  constexpr auto kHighest = static_cast<float>(kMaxInt16Code);
  constexpr float kShift = 12582912.0F;
  const float scale = r.op.node.as<QuantizeAttributes>().scale;
  const std::int64_t k = r.width();
  const std::int64_t given = r.run.given_rows(r.op.outputs[0].value.rows);
  for (std::int64_t row = r.range.begin; row < r.range.end; ++row) {
    auto* codes = r.out<std::int16_t>() + row * k;
    if (row >= given) {
      std::fill_n(codes, k, std::int16_t{0});
      continue;
    }
    const float* x = r.in(0) + row * k;
    // A value that is no number gives the lowest code. A float has no fraction bits once 1.5 * 2^23 is
    // added: ties go to even.
    for (std::int64_t i = 0; i < k; ++i) {
      const float scaled = x[i] / scale;
      const float above = scaled > -kHighest ? scaled : -kHighest;
      const float code = (above < kHighest ? above : kHighest) + kShift - kShift;
      codes[i] = static_cast<std::int16_t>(code);
    }
  }
}

void dynamic_quantize(const RowRun& r) {
  const std::int64_t k = r.width();
  const CodeRows y = r.codes(r.op.outputs[0]);
  auto* scales = r.run.value<float>(r.op.outputs[1].id);
  for (std::int64_t row = r.range.begin; row < r.range.end; ++row)
    r.kernels.quantize_dynamic(r.in(0) + row * k, k, y.codes + row * y.stride, scales + row,
                               y.sums + row);
}

// y = code * (row scale * column scale) (+ bias), with the rounding of an int8 Linear.
template <typename Code>
void dequantize_row(const Code* codes, std::int64_t n, std::span<const float> scales,
                    float row_scale, const float* bias, float* y) {
  for (std::int64_t c = 0; c < n; ++c) {
    const float scale = scales.size() == 1 ? scales[0] : scales[static_cast<std::size_t>(c)];
    y[c] = static_cast<float>(codes[c]) * (row_scale * scale);
    if (bias != nullptr) y[c] += bias[c];
  }
}

void dequantize(const RowRun& r) {
  constexpr float kNoScale = 1;
  const RowOperand& input = r.op.inputs[0];
  const Tensor& bias = r.op.node.as<DequantizeAttributes>().bias;
  const float* added = bias.empty() ? nullptr : bias.as<float>().data();
  const auto& quantization = input.value.quantization;
  const std::span<const float> scales =
      quantization ? quantization->scales.as<float>() : std::span(&kNoScale, 1);
  const float* row_scales = r.op.inputs.size() > 1 ? r.in(1) : nullptr;
  const std::int64_t n = r.width();
  for (std::int64_t row = r.range.begin; row < r.range.end; ++row) {
    const float row_scale = row_scales == nullptr ? 1 : row_scales[row];
    float* y = r.out() + row * n;
    if (input.value.dtype == DType::kI32) {
      r.kernels.dequantize(r.in<std::int32_t>(0) + row * n, n, scales.data(), scales.size() > 1,
                           row_scale, added, y);
    } else if (input.value.dtype == DType::kI64) {
      dequantize_row(r.in<std::int64_t>(0) + row * n, n, scales, row_scale, added, y);
    } else if (input.value.dtype == DType::kI16) {
      dequantize_row(r.in<std::int16_t>(0) + row * n, n, scales, row_scale, added, y);
    } else {
      const CodeRows x = r.codes(input);
      dequantize_row(x.codes + row * x.stride, n, scales, row_scale, added, y);
    }
  }
}

void requantize(const RowRun& r) {
  const auto& a = r.op.node.as<RequantizeAttributes>();
  const std::int64_t n = r.width();
  // Columns that share a shift: as many as one call handles.
  const std::int64_t step = a.shifts.size() == 1 ? n : 1;
  for (std::int64_t row = r.range.begin; row < r.range.end; ++row) {
    const auto* sums = r.in<std::int32_t>(0) + row * n;
    if (a.dtype == DType::kI16) {
      auto* codes = r.out<std::int16_t>() + row * n;
      for (std::int64_t c = 0; c < n; c += step)
        r.kernels.requantize_int16(sums + c, step,
                                   static_cast<int>(a.shifts[static_cast<std::size_t>(c / step)]),
                                   codes + c);
      continue;
    }
    const CodeRows y = r.codes(r.op.outputs[0]);
    std::int8_t* codes = y.codes + row * y.stride;
    for (std::int64_t c = 0; c < n; c += step)
      r.kernels.requantize_int8(sums + c, step,
                                static_cast<int>(a.shifts[static_cast<std::size_t>(c / step)]),
                                codes + c);
    std::fill(codes + n, codes + padded_k(n), std::int8_t{0});
    y.sums[row] = 0;
    for (std::int64_t c = 0; c < n; ++c) y.sums[row] += codes[c];
  }
}

void hadamard(const RowRun& r) {
  const auto& a = r.op.node.as<HadamardAttributes>();
  const std::int64_t m = a.m(), n = a.block / m;
  const float* x = r.in(0) + first(r);
  float* y = r.out() + first(r);
  if (m == 1) {
    std::copy_n(x, count(r), y);
  } else {
    const float* factor = a.factor.as<float>().data();
    for (std::int64_t at = 0; at < count(r); at += a.block)
      r.kernels.mix(x + at, factor, m, n, y + at);
  }
  for (std::int64_t at = 0; at < count(r); at += n) r.kernels.hadamard(y + at, n);
}

void shadow_linear(const RowRun& r) {
  const auto& [scale, channels, weight] = r.op.node.as<ShadowLinearAttributes>();
  const std::int64_t k = r.op.inputs[0].value.width;
  for (std::int64_t row = r.range.begin; row < r.range.end; ++row)
    r.kernels.shadow_linear(r.in(0) + row * k, scale, channels.as<std::int32_t>().data(),
                            channels.elements(), weight.bytes().data(), weight.dtype(), r.width(),
                            r.out() + row * r.width());
}

struct Entry {
  Op op;
  RowFunction function;
};

constexpr std::array kFunctions = {
    Entry{Op::kEmbedding, embed},
    Entry{Op::kRmsNorm, norm},
    Entry{Op::kRotaryAngles, angles},
    Entry{Op::kRotaryEmbedding, rotate},
    Entry{Op::kSilu, silu},
    Entry{Op::kGelu, gelu},
    Entry{Op::kMul, mul},
    Entry{Op::kAdd, add},
    Entry{Op::kSoftcap, softcap},
    Entry{Op::kSelectRows, select},
    Entry{Op::kQuantize, quantize},
    Entry{Op::kQuantizeInt16, quantize_int16},
    Entry{Op::kDynamicQuantize, dynamic_quantize},
    Entry{Op::kDequantize, dequantize},
    Entry{Op::kRequantize, requantize},
    Entry{Op::kHadamard, hadamard},
    Entry{Op::kShadowLinear, shadow_linear},
};

}  // namespace

RowFunction row_function(Op op) noexcept {
  const auto* found = std::ranges::find(kFunctions, op, &Entry::op);
  return found == kFunctions.end() ? nullptr : found->function;
}

}  // namespace tandem
