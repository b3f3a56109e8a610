// The rules of the integer operators: the codes they accept, and the scale of their output.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <string>

#include "base/error.h"
#include "graph/rules.h"

namespace tandem::rules {
namespace {

Value integers(const Inspection& node, DType dtype, std::int64_t width,
               std::optional<Quantization> quantization) {
  return {.name = node.name,
          .dtype = dtype,
          .rows = node.inputs.front().rows,
          .width = width,
          .quantization = std::move(quantization)};
}

// Bounds on Requantize's shift: beyond them nothing is left of an int32.
constexpr std::int64_t kMaxShift = 31;

}  // namespace

// Codes times codes: exact sums, whose scale is the weight's, times the input's if it is fixed.
std::vector<Value> int8_linear(const Inspection& node) {
  const auto& attributes = attributes_of<LinearAttributes>(node);
  const auto* weight = std::get_if<ChannelCodes>(&attributes.weight);
  if (weight == nullptr)
    reject(node, fmt::format("expected int8 weights for {} input, got {}",
                             node.inputs[0].dtype == DType::kI8 ? "int8" : "int16",
                             describe(attributes.weight)));
  require(node, attributes.bias.empty(), "an int8 Linear has no bias: Dequantize adds it");
  require(node, weight->k <= kMaxInt8K,
          fmt::format("expected K of at most {} for exact sums, got {}", kMaxInt8K, weight->k));
  require(node,
          !weight->scales.empty() && weight->scales.dtype() == DType::kF32 &&
              (weight->scales.elements() == 1 || weight->scales.elements() == weight->n),
          fmt::format("expected 1 or {} scales in F32", weight->n));
  const auto& input = node.inputs[0].quantization;
  const bool is_int8 = node.inputs[0].dtype == DType::kI8;
  if (!input && !is_int8)
    reject(node,
           fmt::format("expected a scale for all int16 codes, {} has none", node.inputs[0].name));
  if (!input)
    return {integers(node, DType::kI32, weight->n,
                     Quantization{.scales = weight->scales, .times_row_scale = true})};
  require(node, input->scales.elements() == 1,
          fmt::format("expected one scale for all columns of {}, got {}", node.inputs[0].name,
                      input->scales.elements()));
  std::vector<float> scales;
  for (const float scale : weight->scales.as<float>())
    scales.push_back(input->scales.as<float>()[0] * scale);
  const auto count = static_cast<std::int64_t>(scales.size());
  return {integers(node, is_int8 ? DType::kI32 : DType::kI64, weight->n,
                   Quantization{Tensor::from_floats(scales, {count})})};
}

namespace {

std::vector<Value> quantize_to(DType dtype, const Inspection& node) {
  require_inputs(node, 1);
  require_dtype(node, DType::kF32);
  const float scale = attributes_of<QuantizeAttributes>(node).scale;
  require(node, std::isfinite(scale) && scale > 0,
          fmt::format("expected a scale above 0, got {}", scale));
  return {integers(node, dtype, node.inputs[0].width,
                   Quantization{Tensor::from_floats(std::vector{scale}, {1})})};
}

}  // namespace

std::vector<Value> quantize(const Inspection& node) { return quantize_to(DType::kI8, node); }

std::vector<Value> quantize_int16(const Inspection& node) { return quantize_to(DType::kI16, node); }

std::vector<Value> dynamic_quantize(const Inspection& node) {
  require_inputs(node, 1);
  require_dtype(node, DType::kF32);
  attributes_of<NoAttributes>(node);
  Value scale = float_output(node, 1).front();
  scale.name += ".scale";
  return {integers(node, DType::kI8, node.inputs[0].width, {}), std::move(scale)};
}

std::vector<Value> dequantize(const Inspection& node) {
  require(node, node.inputs.size() == 1 || node.inputs.size() == 2,
          fmt::format("expected 1 or 2 inputs, got {}", node.inputs.size()));
  const Value& codes = node.inputs[0];
  constexpr std::array kIntegers = {DType::kI8, DType::kI16, DType::kI32, DType::kI64};
  require(node, std::ranges::find(kIntegers, codes.dtype) != kIntegers.end(),
          fmt::format("expected I8, I16, I32 or I64 input, got {} ({})", to_string(codes.dtype),
                      codes.name));
  const auto& attributes = attributes_of<DequantizeAttributes>(node);
  if (!attributes.bias.empty()) require_f32_row(node, "bias", attributes.bias, codes.width);
  if (node.inputs.size() == 1) {
    require(node, codes.quantization.has_value() && !codes.quantization->times_row_scale,
            fmt::format("{} has no scale of its own: expected the scale of each row as a second "
                        "input",
                        codes.name));
    return float_output(node, codes.width);
  }
  require(node, !codes.quantization.has_value() || codes.quantization->times_row_scale,
          fmt::format("{} has a fixed scale: expected no scale of each row", codes.name));
  require_same_rows(node);
  const Value& scale = node.inputs[1];
  require(node, scale.dtype == DType::kF32,
          fmt::format("expected the rows' scales in F32, got {} ({})", to_string(scale.dtype),
                      scale.name));
  require_width(node, "width of " + scale.name, 1, scale.width);
  return float_output(node, codes.width);
}

std::vector<Value> requantize(const Inspection& node) {
  require_inputs(node, 1);
  require_dtype(node, DType::kI32);
  const auto& attributes = attributes_of<RequantizeAttributes>(node);
  const Value& sums = node.inputs[0];
  require(node, attributes.dtype == DType::kI8 || attributes.dtype == DType::kI16,
          fmt::format("expected codes in I8 or I16, got {}", to_string(attributes.dtype)));
  const auto count = static_cast<std::int64_t>(attributes.shifts.size());
  require(node, count == 1 || count == sums.width,
          fmt::format("expected 1 or {} shifts, got {}", sums.width, count));
  for (const std::int64_t shift : attributes.shifts)
    require(node, shift >= -kMaxShift && shift <= kMaxShift,
            fmt::format("expected shifts from {} to {}, got {}", -kMaxShift, kMaxShift, shift));
  const auto& quantization = sums.quantization;
  if (!quantization || quantization->times_row_scale)
    reject(node, fmt::format("expected sums with a fixed scale, {} has none", sums.name));
  // All columns of a tensor share a scale: the shifts must make up for the differences between
  // columns.
  const auto scales = quantization->scales.as<float>();
  const auto scale_of = [&](std::int64_t column) {
    const auto c = static_cast<std::size_t>(column);
    const std::int64_t shift = attributes.shifts[count == 1 ? 0 : c];
    return std::ldexp(scales[scales.size() == 1 ? 0 : c], static_cast<int>(shift));
  };
  const float scale = scale_of(0);
  const std::int64_t different =
      std::max<std::int64_t>(count, static_cast<std::int64_t>(scales.size()));
  for (std::int64_t c = 1; c < different; ++c)
    require(node, scale_of(c) == scale,
            fmt::format("expected shifts that give every column the scale {}, column {} has {}",
                        scale, c, scale_of(c)));
  return {integers(node, attributes.dtype, sums.width,
                   Quantization{Tensor::from_floats(std::vector{scale}, {1})})};
}

std::vector<Value> hadamard(const Inspection& node) {
  require_inputs(node, 1);
  require_dtype(node, DType::kF32);
  const auto& attributes = attributes_of<HadamardAttributes>(node);
  const auto& [block, factor] = attributes;
  const std::int64_t width = node.inputs[0].width;
  require(node,
          factor.empty() || (factor.dtype() == DType::kF32 && factor.shape().size() == 2 &&
                             factor.dim(0) == factor.dim(1) && factor.dim(0) > 0),
          fmt::format("expected a factor F32 [m, m], got {} {}", to_string(factor.dtype()),
                      to_string(factor.shape())));
  const std::int64_t m = attributes.m();
  require(node,
          block > 0 && block % m == 0 &&
              std::has_single_bit(static_cast<std::uint64_t>(block / m)) && width % block == 0,
          fmt::format("expected blocks of {}a power of two that divide the width {}, got {}",
                      m == 1 ? "" : fmt::format("{} times ", m), width, block));
  return float_output(node, width);
}

std::vector<Value> shadow_linear(const Inspection& node) {
  require_inputs(node, 1);
  require_dtype(node, DType::kF32);
  const auto& [scale, channels, weight] = attributes_of<ShadowLinearAttributes>(node);
  require(node, std::isfinite(scale) && scale > 0,
          fmt::format("expected a scale above 0, got {}", scale));
  require(node,
          !channels.empty() && channels.dtype() == DType::kI32 && channels.shape().size() == 1 &&
              channels.elements() > 0,
          fmt::format("expected channels as I32 of 1 dimension, got {}",
                      channels.empty() ? "none"
                                       : fmt::format("{} {}", to_string(channels.dtype()),
                                                     to_string(channels.shape()))));
  const std::int64_t width = node.inputs[0].width;
  std::int64_t last = -1;
  for (const std::int32_t channel : channels.as<std::int32_t>()) {
    require(
        node, channel > last && channel < width,
        fmt::format("expected ascending channels below {}, got {} after {}", width, channel, last));
    last = channel;
  }
  require_float_tensor(node, "weight", weight, 2);
  require(node, weight.dtype() == DType::kF16 || weight.dtype() == DType::kF32,
          fmt::format("expected weight in F16 or F32, got {}", to_string(weight.dtype())));
  require(node, weight.dim(0) == channels.elements() && weight.dim(1) > 0,
          fmt::format("expected weight [{}, n], got {}", channels.elements(),
                      to_string(weight.shape())));
  return float_output(node, weight.dim(1));
}

}  // namespace tandem::rules
