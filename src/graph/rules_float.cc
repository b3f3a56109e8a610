// The rules of the float operators: number, types, widths and rows of their inputs, and their
// attributes.
#include <cmath>
#include <cstddef>
#include <string>

#include "base/error.h"
#include "graph/rules.h"

namespace tandem::rules {
namespace {

void require_finite(const Inspection& node, const std::vector<float>& frequencies) {
  for (const float frequency : frequencies)
    require(node, std::isfinite(frequency), "an inverse frequency is not finite");
}

std::vector<Value> elementwise(const Inspection& node, std::size_t inputs) {
  require_inputs(node, inputs);
  require_dtype(node, DType::kF32);
  attributes_of<NoAttributes>(node);
  require_same_rows(node);
  for (const Value& input : node.inputs)
    require_width(node, "width of " + input.name, node.inputs[0].width, input.width);
  return float_output(node, node.inputs[0].width);
}

void require_scales(const Inspection& node, std::string_view what, const Tensor& scales,
                    std::int64_t width) {
  require_f32_row(node, what, scales, width);
  for (const float scale : scales.as<float>())
    require(node, std::isfinite(scale) && scale > 0,
            fmt::format("expected {} above 0, got {}", what, scale));
}

}  // namespace

void reject(const Inspection& node, const std::string& what) {
  fail(ErrorCode::kFormat, "[{}] {}: {}", info(node.op).error_part, node.name, what);
}

void require(const Inspection& node, bool condition, const std::string& what) {
  if (!condition) reject(node, what);
}

void require_inputs(const Inspection& node, std::size_t count) {
  if (node.inputs.size() != count)
    reject(node, fmt::format("expected {} input{}, got {}", count, count == 1 ? "" : "s",
                             node.inputs.size()));
}

void require_dtype(const Inspection& node, DType expected) {
  for (const Value& input : node.inputs)
    if (input.dtype != expected)
      reject(node, fmt::format("expected {} input, got {} ({})", to_string(expected),
                               to_string(input.dtype), input.name));
}

void require_width(const Inspection& node, std::string_view what, std::int64_t expected,
                   std::int64_t got) {
  if (expected != got) reject(node, fmt::format("expected {} = {}, got {}", what, expected, got));
}

void require_same_rows(const Inspection& node) {
  for (const Value& input : node.inputs)
    if (input.rows != node.inputs.front().rows)
      reject(node, fmt::format("expected inputs with the same rows, {} and {} differ",
                               node.inputs.front().name, input.name));
}

void require_float_tensor(const Inspection& node, std::string_view what, const Tensor& tensor,
                          std::size_t rank) {
  if (tensor.empty() || tensor.shape().size() != rank || !is_float(tensor.dtype()))
    reject(node, fmt::format("expected {} as a float tensor of {} dimension{}, got {}", what, rank,
                             rank == 1 ? "" : "s",
                             tensor.empty() ? "none"
                                            : fmt::format("{} {}", to_string(tensor.dtype()),
                                                          to_string(tensor.shape()))));
}

void require_f32_row(const Inspection& node, std::string_view what, const Tensor& tensor,
                     std::int64_t width) {
  require_float_tensor(node, what, tensor, 1);
  if (tensor.dtype() != DType::kF32)
    reject(node, fmt::format("expected {} in F32, got {}", what, to_string(tensor.dtype())));
  if (tensor.dim(0) != width)
    reject(node, fmt::format("expected {} [{}], got [{}]", what, width, tensor.dim(0)));
}

std::vector<Value> float_output(const Inspection& node, std::int64_t width) {
  return {Value{.name = node.name, .rows = node.inputs.front().rows, .width = width}};
}

std::vector<Value> embedding(const Inspection& node) {
  require_inputs(node, 1);
  require_dtype(node, DType::kI32);
  require_width(node, "width of the ids", 1, node.inputs[0].width);
  const auto& attributes = attributes_of<EmbeddingAttributes>(node);
  require_float_tensor(node, "table", attributes.table, 2);
  require(node, std::isfinite(attributes.scale),
          fmt::format("expected a finite scale, got {}", attributes.scale));
  return float_output(node, attributes.table.dim(1));
}

std::vector<Value> linear(const Inspection& node) {
  require_inputs(node, 1);
  const auto& attributes = attributes_of<LinearAttributes>(node);
  const auto* real = std::get_if<FloatWeight>(&attributes.weight);
  require(node, real == nullptr || real->rows != nullptr, "expected a weight, got none");
  require_width(node, "K", input_channels(attributes.weight), node.inputs[0].width);
  if (node.inputs[0].dtype == DType::kI8 || node.inputs[0].dtype == DType::kI16)
    return int8_linear(node);
  require_dtype(node, DType::kF32);
  const std::int64_t n = output_channels(attributes.weight);
  if (!attributes.bias.empty()) require_f32_row(node, "bias", attributes.bias, n);
  return float_output(node, n);
}

std::vector<Value> rms_norm(const Inspection& node) {
  require_inputs(node, 1);
  require_dtype(node, DType::kF32);
  const auto& attributes = attributes_of<RmsNormAttributes>(node);
  const std::int64_t width = node.inputs[0].width;
  require(node, attributes.heads > 0 && width % attributes.heads == 0,
          fmt::format("expected heads that divide the width {}, got {}", width, attributes.heads));
  require_f32_row(node, "weight", attributes.weight, width / attributes.heads);
  require(node, std::isfinite(attributes.epsilon) && attributes.epsilon >= 0,
          fmt::format("expected epsilon of at least 0, got {}", attributes.epsilon));
  return float_output(node, width);
}

std::vector<Value> rotary_angles(const Inspection& node) {
  require_inputs(node, 1);
  const auto& attributes = attributes_of<RotaryAnglesAttributes>(node);
  require(node, node.inputs[0].rows == kTokens,
          fmt::format("expected a row per token, {} has other rows", node.inputs[0].name));
  const auto pairs = static_cast<std::int64_t>(attributes.inverse_frequencies.size());
  require(node, pairs > 0, "expected inverse frequencies, got none");
  require_finite(node, attributes.inverse_frequencies);
  const RotaryExtension& extension = attributes.extension;
  require(node,
          extension.original_context >= 0 &&
              (extension.inverse_frequencies.empty() ||
               extension.inverse_frequencies.size() == attributes.inverse_frequencies.size()),
          fmt::format("expected {} inverse frequencies beyond the original context, got {}", pairs,
                      extension.inverse_frequencies.size()));
  require_finite(node, extension.inverse_frequencies);
  return float_output(node, 2 * pairs);
}

std::vector<Value> rotary_embedding(const Inspection& node) {
  require_inputs(node, 2);
  require_dtype(node, DType::kF32);
  require_same_rows(node);
  const auto& attributes = attributes_of<RotaryAttributes>(node);
  require(node, attributes.heads > 0 && attributes.head_dim > 0,
          fmt::format("expected heads and head_dim above 0, got {} and {}", attributes.heads,
                      attributes.head_dim));
  require_width(node, "width", attributes.heads * attributes.head_dim, node.inputs[0].width);
  const std::int64_t rotary_dim = node.inputs[1].width;
  require(node, rotary_dim % 2 == 0 && rotary_dim <= attributes.head_dim,
          fmt::format("expected the angles of 2 to {} elements of a head, got {}",
                      attributes.head_dim, rotary_dim));
  return float_output(node, node.inputs[0].width);
}

std::vector<Value> group_query_attention(const Inspection& node) {
  require_inputs(node, 3);
  require_dtype(node, DType::kF32);
  const auto& attributes = attributes_of<AttentionAttributes>(node);
  require(node, attributes.heads > 0 && attributes.kv_heads > 0 && attributes.head_dim > 0,
          fmt::format("expected heads, kv_heads and head_dim above 0, got {}, {} and {}",
                      attributes.heads, attributes.kv_heads, attributes.head_dim));
  require(node, attributes.heads % attributes.kv_heads == 0,
          fmt::format("expected heads as a multiple of {} kv_heads, got {}", attributes.kv_heads,
                      attributes.heads));
  require(node,
          std::isfinite(attributes.scale) && attributes.window >= 0 &&
              std::isfinite(attributes.softcap) && attributes.softcap >= 0,
          fmt::format("scale {}, window {} or softcap {} is out of range", attributes.scale,
                      attributes.window, attributes.softcap));
  const std::int64_t kv_width = attributes.kv_heads * attributes.head_dim;
  require_width(node, "width of q", attributes.heads * attributes.head_dim, node.inputs[0].width);
  require_width(node, "width of k", kv_width, node.inputs[1].width);
  require_width(node, "width of v", kv_width, node.inputs[2].width);
  if (attributes.has_kv_scales() || !attributes.v_scales.empty()) {
    require_scales(node, "k_scales", attributes.k_scales, kv_width);
    require_scales(node, "v_scales", attributes.v_scales, kv_width);
  }
  if (!attributes.int16_scales.empty()) {
    require(node, attributes.has_kv_scales(), "expected int16_scales with k_scales and v_scales");
    require_scales(node, "int16_scales", attributes.int16_scales, 3);
  }
  // The k and v of every token go into the cache, so a selection of rows would leave gaps in it.
  for (const Value& input : node.inputs)
    require(node, input.rows == kTokens,
            fmt::format("expected a row per token, {} has other rows", input.name));
  return float_output(node, node.inputs[0].width);
}

std::vector<Value> unary(const Inspection& node) { return elementwise(node, 1); }
std::vector<Value> binary(const Inspection& node) { return elementwise(node, 2); }

std::vector<Value> softcap(const Inspection& node) {
  require_inputs(node, 1);
  require_dtype(node, DType::kF32);
  const float cap = attributes_of<SoftcapAttributes>(node).cap;
  require(node, std::isfinite(cap) && cap > 0, fmt::format("expected a cap above 0, got {}", cap));
  return float_output(node, node.inputs[0].width);
}

std::vector<Value> select_rows(const Inspection& node) {
  require_inputs(node, 2);
  attributes_of<NoAttributes>(node);
  const Value& x = node.inputs[0];
  const Value& numbers = node.inputs[1];
  require(node, x.dtype == DType::kF32,
          fmt::format("expected F32 input, got {} ({})", to_string(x.dtype), x.name));
  require(node, numbers.dtype == DType::kI32 && numbers.width == 1,
          fmt::format("expected row numbers as I32 of width 1, got {} of width {} ({})",
                      to_string(numbers.dtype), numbers.width, numbers.name));
  require(node, x.rows != numbers.rows, "the rows are selected already");
  return {Value{.name = node.name, .rows = numbers.rows, .width = x.width}};
}

}  // namespace tandem::rules
