// The table of operators.
#include "graph/ops.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "graph/rules.h"

namespace tandem {
namespace {

template <typename T>
Attributes empty() {
  return T{};
}

template <typename T>
const T& as(const Attributes& attributes) {
  return std::get<T>(attributes);
}

std::string nothing(const Attributes&) { return {}; }

std::string describe_embedding(const Attributes& attributes) {
  const auto& a = as<EmbeddingAttributes>(attributes);
  std::string text = fmt::format(" {} {}", to_string(a.table.dtype()), to_string(a.table.shape()));
  if (a.scale != 1) text += fmt::format(" scale {}", a.scale);
  return text;
}

std::string describe_linear(const Attributes& attributes) {
  const auto& a = as<LinearAttributes>(attributes);
  return fmt::format(" {}{}", describe(a.weight), a.bias.empty() ? "" : " + bias");
}

std::string describe_norm(const Attributes& attributes) {
  const auto& a = as<RmsNormAttributes>(attributes);
  return fmt::format(" epsilon {}{}", a.epsilon,
                     a.heads == 1 ? "" : fmt::format(" heads {}", a.heads));
}

std::string describe_angles(const Attributes& attributes) {
  const auto& a = as<RotaryAnglesAttributes>(attributes);
  std::string text = fmt::format(" rotary {}", 2 * a.inverse_frequencies.size());
  if (a.attention_factor != 1) text += fmt::format(" factor {}", a.attention_factor);
  if (a.extension.original_context > 0)
    text += fmt::format(" extended beyond {}", a.extension.original_context);
  return text;
}

std::string describe_rotary(const Attributes& attributes) {
  const auto& a = as<RotaryAttributes>(attributes);
  return fmt::format(" {} x {}", a.heads, a.head_dim);
}

std::string describe_attention(const Attributes& attributes) {
  const auto& a = as<AttentionAttributes>(attributes);
  std::string text = fmt::format(" {}:{} x {} scale {}", a.heads, a.kv_heads, a.head_dim, a.scale);
  if (a.window > 0) text += fmt::format(" window {}", a.window);
  if (a.softcap > 0) text += fmt::format(" softcap {}", a.softcap);
  if (a.has_kv_scales()) text += " int8 cache";
  return text;
}

std::string describe_softcap(const Attributes& attributes) {
  return fmt::format(" cap {}", as<SoftcapAttributes>(attributes).cap);
}

std::string describe_quantize(const Attributes& attributes) {
  return fmt::format(" scale {}", as<QuantizeAttributes>(attributes).scale);
}

std::string describe_dequantize(const Attributes& attributes) {
  return as<DequantizeAttributes>(attributes).bias.empty() ? "" : " + bias";
}

std::string describe_requantize(const Attributes& attributes) {
  const auto& a = as<RequantizeAttributes>(attributes);
  const auto [low, high] = std::ranges::minmax(a.shifts);
  return low == high ? fmt::format(" shift {}", low) : fmt::format(" shifts {} to {}", low, high);
}

std::string describe_hadamard(const Attributes& attributes) {
  const auto& hadamard = as<HadamardAttributes>(attributes);
  return fmt::format(" block {}{}", hadamard.block,
                     hadamard.m() == 1 ? "" : fmt::format(" factor {}", hadamard.m()));
}

std::string describe_shadow(const Attributes& attributes) {
  const auto& a = as<ShadowLinearAttributes>(attributes);
  return fmt::format(" scale {} channels {} {}", a.scale, a.channels.elements(),
                     to_string(a.weight.dtype()));
}

// In the order of Op.
constexpr std::array kOps = {
    OpInfo{Op::kEmbedding, "Embedding", "embedding", rules::embedding, describe_embedding,
           empty<EmbeddingAttributes>},
    OpInfo{Op::kLinear, "Linear", "linear", rules::linear, describe_linear,
           empty<LinearAttributes>},
    OpInfo{Op::kRmsNorm, "RmsNorm", "rms_norm", rules::rms_norm, describe_norm,
           empty<RmsNormAttributes>},
    OpInfo{Op::kRotaryAngles, "RotaryAngles", "rotary_angles", rules::rotary_angles,
           describe_angles, empty<RotaryAnglesAttributes>},
    OpInfo{Op::kRotaryEmbedding, "RotaryEmbedding", "rotary_embedding", rules::rotary_embedding,
           describe_rotary, empty<RotaryAttributes>},
    OpInfo{Op::kGroupQueryAttention, "GroupQueryAttention", "group_query_attention",
           rules::group_query_attention, describe_attention, empty<AttentionAttributes>},
    OpInfo{Op::kSilu, "SiLU", "silu", rules::unary, nothing, empty<NoAttributes>},
    OpInfo{Op::kGelu, "GELU", "gelu", rules::unary, nothing, empty<NoAttributes>},
    OpInfo{Op::kMul, "Mul", "mul", rules::binary, nothing, empty<NoAttributes>},
    OpInfo{Op::kAdd, "Add", "add", rules::binary, nothing, empty<NoAttributes>},
    OpInfo{Op::kSoftcap, "Softcap", "softcap", rules::softcap, describe_softcap,
           empty<SoftcapAttributes>},
    OpInfo{Op::kSelectRows, "SelectRows", "select_rows", rules::select_rows, nothing,
           empty<NoAttributes>},
    OpInfo{Op::kQuantize, "Quantize", "quantize", rules::quantize, describe_quantize,
           empty<QuantizeAttributes>},
    OpInfo{Op::kQuantizeInt16, "QuantizeInt16", "quantize_int16", rules::quantize_int16,
           describe_quantize, empty<QuantizeAttributes>},
    OpInfo{Op::kDynamicQuantize, "DynamicQuantize", "dynamic_quantize", rules::dynamic_quantize,
           nothing, empty<NoAttributes>},
    OpInfo{Op::kDequantize, "Dequantize", "dequantize", rules::dequantize, describe_dequantize,
           empty<DequantizeAttributes>},
    OpInfo{Op::kRequantize, "Requantize", "requantize", rules::requantize, describe_requantize,
           empty<RequantizeAttributes>},
    OpInfo{Op::kHadamard, "Hadamard", "hadamard", rules::hadamard, describe_hadamard,
           empty<HadamardAttributes>},
    OpInfo{Op::kShadowLinear, "ShadowLinear", "shadow_linear", rules::shadow_linear,
           describe_shadow, empty<ShadowLinearAttributes>},
};

constexpr bool in_order() {
  for (std::size_t i = 0; i < kOps.size(); ++i)
    if (static_cast<std::size_t>(kOps[i].op) != i) return false;
  return true;
}
static_assert(in_order());
static_assert(kOps.back().op == Op::kShadowLinear, "every operator has a row");

}  // namespace

const OpInfo& info(Op op) noexcept { return kOps[static_cast<std::size_t>(op)]; }

std::span<const OpInfo> all_ops() noexcept { return kOps; }

std::optional<Op> find_op(std::string_view name) noexcept {
  const auto found = std::ranges::find(kOps, name, &OpInfo::name);
  return found == kOps.end() ? std::nullopt : std::optional(found->op);
}

std::vector<Value> infer_outputs(const Inspection& node) { return info(node.op).infer(node); }

std::string_view to_string(Op op) noexcept { return info(op).name; }

}  // namespace tandem
