// The rules of every operator: how many inputs, of which type, width and rows, with which
// attributes.
#include "graph/shape_inference.h"

#include <cmath>
#include <cstddef>
#include <string>
#include <variant>

#include "base/error.h"

namespace tandem {
namespace {

// A node under inspection, with the checks that several operators share.
struct Inspection {
  Op op;
  const std::string& name;
  std::span<const Value> inputs;
  const Attributes& attributes;

  [[noreturn]] void reject(const std::string& what) const {
    fail(ErrorCode::kFormat, "[{}] {}: {}", error_part(op), name, what);
  }

  void require(bool condition, const std::string& what) const {
    if (!condition) reject(what);
  }

  void require_inputs(std::size_t count) const {
    if (inputs.size() != count)
      reject(
          fmt::format("expected {} input{}, got {}", count, count == 1 ? "" : "s", inputs.size()));
  }

  void require_dtype(DType expected) const {
    for (const Value& input : inputs)
      if (input.dtype != expected)
        reject(fmt::format("expected {} input, got {} ({})", to_string(expected),
                           to_string(input.dtype), input.name));
  }

  // `what` is the axis as the error names it, such as "K" or "width of q".
  void require_width(std::string_view what, std::int64_t expected, std::int64_t got) const {
    if (expected != got) reject(fmt::format("expected {} = {}, got {}", what, expected, got));
  }

  void require_same_rows() const {
    for (const Value& input : inputs)
      if (input.rows != inputs.front().rows)
        reject(fmt::format("expected inputs with the same rows, {} and {} differ",
                           inputs.front().name, input.name));
  }

  template <typename T>
  const T& get() const {
    const T* found = std::get_if<T>(&attributes);
    if (found == nullptr) reject("the attributes are not those of this operator");
    return *found;
  }

  // Checked before any dimension is read, as a tensor may come with any number of them.
  void require_float_tensor(std::string_view what, const Tensor& tensor, std::size_t rank) const {
    if (tensor.empty() || tensor.shape().size() != rank || !is_float(tensor.dtype()))
      reject(fmt::format("expected {} as a float tensor of {} dimension{}, got {}", what, rank,
                         rank == 1 ? "" : "s",
                         tensor.empty() ? "none"
                                        : fmt::format("{} {}", to_string(tensor.dtype()),
                                                      to_string(tensor.shape()))));
  }

  void require_f32_row(std::string_view what, const Tensor& tensor, std::int64_t width) const {
    require_float_tensor(what, tensor, 1);
    if (tensor.dtype() != DType::kF32)
      reject(fmt::format("expected {} in F32, got {}", what, to_string(tensor.dtype())));
    if (tensor.dim(0) != width)
      reject(fmt::format("expected {} [{}], got [{}]", what, width, tensor.dim(0)));
  }

  Value output(std::int64_t width) const {
    return Value{.name = name, .dtype = DType::kF32, .rows = inputs.front().rows, .width = width};
  }
};

Value embedding(const Inspection& node) {
  node.require_inputs(1);
  node.require_dtype(DType::kI32);
  node.require_width("width of the ids", 1, node.inputs[0].width);
  const auto& attributes = node.get<EmbeddingAttributes>();
  node.require_float_tensor("table", attributes.table, 2);
  node.require(std::isfinite(attributes.scale),
               fmt::format("expected a finite scale, got {}", attributes.scale));
  return node.output(attributes.table.dim(1));
}

Value linear(const Inspection& node) {
  node.require_inputs(1);
  node.require_dtype(DType::kF32);
  const auto& attributes = node.get<LinearAttributes>();
  if (const auto* weight = std::get_if<FloatWeight>(&attributes.weight)) {
    node.require_float_tensor("weight", weight->values, 2);
    node.require(weight->values.dtype() != DType::kF64,
                 "expected weight in F32, F16 or BF16, got F64");
  }
  const std::int64_t n = output_channels(attributes.weight);
  node.require_width("K", input_channels(attributes.weight), node.inputs[0].width);
  if (!attributes.bias.empty()) node.require_f32_row("bias", attributes.bias, n);
  return node.output(n);
}

Value rms_norm(const Inspection& node) {
  node.require_inputs(1);
  node.require_dtype(DType::kF32);
  const auto& attributes = node.get<RmsNormAttributes>();
  const std::int64_t width = node.inputs[0].width;
  node.require(
      attributes.heads > 0 && width % attributes.heads == 0,
      fmt::format("expected heads that divide the width {}, got {}", width, attributes.heads));
  node.require_f32_row("weight", attributes.weight, width / attributes.heads);
  node.require(std::isfinite(attributes.epsilon) && attributes.epsilon >= 0,
               fmt::format("expected epsilon of at least 0, got {}", attributes.epsilon));
  return node.output(node.inputs[0].width);
}

Value rotary_embedding(const Inspection& node) {
  node.require_inputs(1);
  node.require_dtype(DType::kF32);
  const auto& attributes = node.get<RotaryAttributes>();
  const auto pairs = static_cast<std::int64_t>(attributes.inverse_frequencies.size());
  node.require(attributes.heads > 0 && attributes.head_dim > 0,
               fmt::format("expected heads and head_dim above 0, got {} and {}", attributes.heads,
                           attributes.head_dim));
  node.require(
      pairs > 0 && 2 * pairs <= attributes.head_dim,
      fmt::format("expected 1 to {} inverse frequencies, got {}", attributes.head_dim / 2, pairs));
  for (const float frequency : attributes.inverse_frequencies)
    node.require(std::isfinite(frequency), "an inverse frequency is not finite");
  const RotaryExtension& extension = attributes.extension;
  node.require(extension.original_context >= 0 &&
                   (extension.inverse_frequencies.empty() ||
                    extension.inverse_frequencies.size() == attributes.inverse_frequencies.size()),
               fmt::format("expected {} inverse frequencies beyond the original context, got {}",
                           pairs, extension.inverse_frequencies.size()));
  for (const float frequency : extension.inverse_frequencies)
    node.require(std::isfinite(frequency), "an inverse frequency is not finite");
  node.require_width("width", attributes.heads * attributes.head_dim, node.inputs[0].width);
  return node.output(node.inputs[0].width);
}

Value group_query_attention(const Inspection& node) {
  node.require_inputs(3);
  node.require_dtype(DType::kF32);
  const auto& attributes = node.get<AttentionAttributes>();
  node.require(attributes.heads > 0 && attributes.kv_heads > 0 && attributes.head_dim > 0,
               fmt::format("expected heads, kv_heads and head_dim above 0, got {}, {} and {}",
                           attributes.heads, attributes.kv_heads, attributes.head_dim));
  node.require(attributes.heads % attributes.kv_heads == 0,
               fmt::format("expected heads as a multiple of {} kv_heads, got {}",
                           attributes.kv_heads, attributes.heads));
  node.require(std::isfinite(attributes.scale) && attributes.window >= 0 &&
                   std::isfinite(attributes.softcap) && attributes.softcap >= 0,
               fmt::format("scale {}, window {} or softcap {} is out of range", attributes.scale,
                           attributes.window, attributes.softcap));
  const std::int64_t kv_width = attributes.kv_heads * attributes.head_dim;
  node.require_width("width of q", attributes.heads * attributes.head_dim, node.inputs[0].width);
  node.require_width("width of k", kv_width, node.inputs[1].width);
  node.require_width("width of v", kv_width, node.inputs[2].width);
  // Every token's k and v go to the cache, so a selection of rows would leave holes in it.
  for (const Value& input : node.inputs)
    node.require(input.rows == Rows::kTokens,
                 fmt::format("expected a row per token, {} has selected rows", input.name));
  return node.output(node.inputs[0].width);
}

Value elementwise(const Inspection& node, std::size_t inputs) {
  node.require_inputs(inputs);
  node.require_dtype(DType::kF32);
  node.get<std::monostate>();
  node.require_same_rows();
  for (const Value& input : node.inputs)
    node.require_width("width of " + input.name, node.inputs[0].width, input.width);
  return node.output(node.inputs[0].width);
}

Value softcap(const Inspection& node) {
  node.require_inputs(1);
  node.require_dtype(DType::kF32);
  const float cap = node.get<SoftcapAttributes>().cap;
  node.require(std::isfinite(cap) && cap > 0, fmt::format("expected a cap above 0, got {}", cap));
  return node.output(node.inputs[0].width);
}

Value select_rows(const Inspection& node) {
  node.require_inputs(1);
  node.require_dtype(DType::kF32);
  node.get<std::monostate>();
  node.require(node.inputs[0].rows == Rows::kTokens, "the rows are selected already");
  Value output = node.output(node.inputs[0].width);
  output.rows = Rows::kSelected;
  return output;
}

}  // namespace

std::string_view error_part(Op op) noexcept {
  switch (op) {
    case Op::kEmbedding:
      return "embedding";
    case Op::kLinear:
      return "linear";
    case Op::kRmsNorm:
      return "rms_norm";
    case Op::kRotaryEmbedding:
      return "rotary_embedding";
    case Op::kGroupQueryAttention:
      return "group_query_attention";
    case Op::kSilu:
      return "silu";
    case Op::kGelu:
      return "gelu";
    case Op::kMul:
      return "mul";
    case Op::kAdd:
      return "add";
    case Op::kSoftcap:
      return "softcap";
    case Op::kSelectRows:
      return "select_rows";
  }
  return "graph";
}

Value infer_output(Op op, const std::string& name, std::span<const Value> inputs,
                   const Attributes& attributes) {
  const Inspection node{op, name, inputs, attributes};
  switch (op) {
    case Op::kEmbedding:
      return embedding(node);
    case Op::kLinear:
      return linear(node);
    case Op::kRmsNorm:
      return rms_norm(node);
    case Op::kRotaryEmbedding:
      return rotary_embedding(node);
    case Op::kGroupQueryAttention:
      return group_query_attention(node);
    case Op::kSilu:
    case Op::kGelu:
      return elementwise(node, 1);
    case Op::kMul:
    case Op::kAdd:
      return elementwise(node, 2);
    case Op::kSoftcap:
      return softcap(node);
    case Op::kSelectRows:
      return select_rows(node);
  }
  node.reject("unknown operator");
}

}  // namespace tandem
