// The nodes that make up one int8 Linear, as added by importers and passes.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "graph/graph.h"

namespace tandem {

// Linear and Dequantize on int8 codes with a fixed scale. `builder` is a Graph or a Rewriter.
template <typename Builder>
ValueId add_static_int8(Builder& builder, const std::string& name, std::int32_t layer,
                        ValueId codes, ChannelCodes weight, Tensor bias) {
  const ValueId sums =
      builder.add(Op::kLinear, name, layer, {codes}, LinearAttributes{std::move(weight), {}});
  return builder.add(Op::kDequantize, name + ".dequantize", layer, {sums},
                     DequantizeAttributes{std::move(bias)});
}

// The same on codes with one scale per row.
template <typename Builder>
ValueId add_dynamic_int8(Builder& builder, const std::string& name, std::int32_t layer,
                         ValueId codes, ValueId scales, ChannelCodes weight, Tensor bias) {
  const ValueId sums =
      builder.add(Op::kLinear, name, layer, {codes}, LinearAttributes{std::move(weight), {}});
  return builder.add(Op::kDequantize, name + ".dequantize", layer, {sums, scales},
                     DequantizeAttributes{std::move(bias)});
}

// Adds int8 Linears on float values, each of which is quantized once per scale, however many Linears
// read it.
template <typename Builder>
class Int8Linears {
 public:
  // `builder` must outlive this.
  explicit Int8Linears(Builder& builder) : builder_(builder) {}

  // `scale`: of the input's codes, int8 or by kQuantizeInt16 int16; 0: one scale per row. `shadow`: of
  // the same weight, whose product with what int8 codes clip is added; its scale becomes that of the
  // codes, which is fixed.
  ValueId add(const std::string& name, std::int32_t layer, ValueId input, float scale,
              ChannelCodes weight, Tensor bias,
              std::optional<ShadowLinearAttributes> shadow = std::nullopt, Op op = Op::kQuantize) {
    auto [found, is_new] = codes_.try_emplace({input, scale, op});
    std::vector<ValueId>& codes = found->second;
    if (is_new) {
      const std::string quantize = builder_.value(input).name + ".quantize";
      codes = scale > 0 ? builder_.add_node(op, quantize, layer, {input}, QuantizeAttributes{scale})
                        : builder_.add_node(Op::kDynamicQuantize, quantize, layer, {input});
    }
    if (codes.size() == 2)
      return add_dynamic_int8(builder_, name, layer, codes[0], codes[1], std::move(weight),
                              std::move(bias));
    const ValueId product =
        add_static_int8(builder_, name, layer, codes[0], std::move(weight), std::move(bias));
    if (!shadow) return product;
    shadow->scale = scale;
    // Reads the input alone, not the product: a device may run it beside that.
    const ValueId clipped =
        builder_.add(Op::kShadowLinear, name + ".shadow", layer, {input}, std::move(*shadow));
    return builder_.add(Op::kAdd, name + ".shadow_sum", layer, {product, clipped});
  }

 private:
  Builder& builder_;
  std::map<std::tuple<ValueId, float, Op>, std::vector<ValueId>> codes_;
};

}  // namespace tandem
