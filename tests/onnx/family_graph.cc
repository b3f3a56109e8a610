#include "onnx/family_graph.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <random>

#include "graph/int8_nodes.h"
#include "graph/rewriter.h"
#include "graph/shadow.h"
#include "models/model.h"
#include "support.h"
#include "tensor/packed_codes.h"

namespace tandem::testing {
namespace {

// Weights large enough that every part of the model matters.
class RandomWeights : public WeightSource {
 public:
  bool has(const std::string& tensor) const override { return tensor != "lm_head.weight"; }
  Tensor tensor(const std::string& name, const Shape& expected) const override {
    const bool is_norm = name.ends_with("norm.weight");
    std::normal_distribution<float> normal(is_norm ? 1.0F : 0.0F,
                                           is_norm || name.ends_with("bias") ? 0.2F : 0.3F);
    std::vector<float> values(static_cast<std::size_t>(element_count(expected)));
    for (float& value : values) value = normal(random_);
    return Tensor::from_floats(values, expected);
  }
  Weight linear(const std::string&, std::int64_t n, std::int64_t k) const override {
    std::normal_distribution<float> normal(0, 0.15F);
    std::vector<float> values(static_cast<std::size_t>(n * k));
    for (float& value : values) value = normal(random_);
    return FloatWeight(Tensor::from_floats(values, {n, k}));
  }
  float input_scale(const std::string&) const override { return 0; }

 private:
  mutable std::mt19937 random_{5};
};

}  // namespace

FamilyModel make_family(const std::string& name, std::int64_t head_dim) {
  const fs::path path = fixture("models/fixtures") / name / "config.json";
  Json config = read_json_file(path);
  const bool is_chatglm = name == "chatglm";
  config["hidden_size"] = 64;
  config[is_chatglm ? "kv_channels" : "head_dim"] = head_dim;
  config[is_chatglm ? "ffn_hidden_size" : "intermediate_size"] = 96;
  config["num_attention_heads"] = 4;
  if (config.contains("rope_scaling") && config["rope_scaling"].contains("short_factor"))
    config["partial_rotary_factor"] = 0.75;
  const JsonObject object(config, path.string());
  return {read_model_info(object), build_graph(object, RandomWeights())};
}

GroupCodes make_codes(const Weight& weight, const CodeForm& form) {
  const std::int64_t n = output_channels(weight), k = input_channels(weight);
  const std::int64_t groups = k / form.group;
  GroupCodes codes{
      .n = n, .k = k, .bits = form.bits, .is_signed = form.is_signed, .group = form.group};
  std::byte *packed = nullptr, *zeros = nullptr;
  codes.codes = Tensor::allocate(form.bits == 8 && form.is_signed ? DType::kI8 : DType::kU8,
                                 {n, packed_bytes(k, form.bits)}, &packed);
  if (form.has_zero_points)
    codes.zero_points = Tensor::allocate(DType::kU8, {n, packed_bytes(groups, form.bits)}, &zeros);
  const int half = 1 << (form.bits - 1);
  const int low = form.is_signed ? -half : 0, high = low + 2 * half - 1;
  std::vector<float> scales;
  for (std::int64_t row = 0; row < n; ++row) {
    const std::vector<float> values = dequantize_rows(weight, row, 1);
    std::vector<std::uint8_t> row_codes, row_zeros;
    for (std::int64_t g = 0; g < groups; ++g) {
      const auto group = std::span(values).subspan(static_cast<std::size_t>(g * form.group),
                                                   static_cast<std::size_t>(form.group));
      const auto [least, most] = std::ranges::minmax(group);
      const float bound = std::max(std::abs(least), std::abs(most));
      const float scale = form.has_zero_points ? (most - least) / static_cast<float>(2 * half - 1)
                                               : bound / static_cast<float>(half - 1);
      const int zero =
          !form.has_zero_points
              ? (form.is_signed ? 0 : half)
              : std::clamp(low - static_cast<int>(std::round(least / scale)), low, high);
      scales.push_back(scale);
      row_zeros.push_back(static_cast<std::uint8_t>(zero));
      for (const float value : group)
        row_codes.push_back(static_cast<std::uint8_t>(
            std::clamp(static_cast<int>(std::round(value / scale)) + zero, low, high)));
    }
    pack_codes(row_codes, form.bits, packed + row * packed_bytes(k, form.bits));
    if (zeros != nullptr)
      pack_codes(row_zeros, form.bits, zeros + row * packed_bytes(groups, form.bits));
  }
  codes.scales = Tensor::from_floats(scales, {n, groups});
  return codes;
}

Graph with_codes(const Graph& graph, const CodeForm& form, bool per_layer) {
  Rewriter rewriter(graph);
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    if (node.op != Op::kLinear) {
      rewriter.copy(id);
      continue;
    }
    auto linear = node.as<LinearAttributes>();
    CodeForm own = form;
    if (per_layer && node.layer % 2 == 1) own.group = 16;
    if (per_layer && node.name.ends_with("k_proj")) own.bits = 8;
    if (per_layer && node.layer < 0) own.group = 64;
    linear.weight = make_codes(linear.weight, own);
    rewriter.copy(id, std::move(linear));
  }
  return std::move(rewriter).finish();
}

Graph with_int8(const Graph& graph, bool has_shadows) {
  Rewriter rewriter(graph);
  Int8Linears<Rewriter> int8(rewriter);
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    if (node.op != Op::kLinear || node.layer < 0) {
      rewriter.copy(id);
      continue;
    }
    const auto& linear = node.as<LinearAttributes>();
    const std::int64_t n = output_channels(linear.weight), k = input_channels(linear.weight);
    ChannelCodes codes{.n = n, .k = k};
    std::byte* out = nullptr;
    codes.codes = Tensor::allocate(DType::kI8, {n, k}, &out);
    std::vector<float> scales;
    for (std::int64_t row = 0; row < n; ++row) {
      const std::vector<float> values = dequantize_rows(linear.weight, row, 1);
      const auto [least, most] = std::ranges::minmax(values);
      scales.push_back(std::max(-least, most) / 127);
      for (const float value : values)
        *out++ =
            static_cast<std::byte>(static_cast<std::int8_t>(std::nearbyint(value / scales.back())));
    }
    codes.scales = Tensor::from_floats(scales, {n});
    std::optional<ShadowLinearAttributes> shadow;
    if (has_shadows) shadow = make_whole_shadow(codes);
    // Some values are beyond what the codes reach.
    rewriter.replace(node.output(), int8.add(node.name, node.layer, rewriter(node.inputs[0]), 0.02F,
                                             std::move(codes), linear.bias, std::move(shadow)));
  }
  return std::move(rewriter).finish();
}

}  // namespace tandem::testing
