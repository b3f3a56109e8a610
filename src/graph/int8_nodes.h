// The nodes that make up one int8 Linear, as added by importers and passes.
#pragma once

#include <string>
#include <utility>

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

}  // namespace tandem
