// The cost of a node on any device, derived from its shapes.
#pragma once

#include "devices/panel_linear.h"

namespace tandem {

// The cost of one run of spec.rows tokens. Only Linears count; other nodes are negligible. Int16
// codes take two products of int8, which share the weight that is read.
inline Cost cost_of(const Graph& graph, const Node& node, const PhaseSpec& spec) {
  if (node.op != Op::kLinear) return {};
  const Weight& weight = node.as<LinearAttributes>().weight;
  const double products = graph.value(node.inputs[0]).dtype == DType::kI16 ? 2 : 1;
  return {products * static_cast<double>(spec.rows) * static_cast<double>(output_channels(weight)) *
              static_cast<double>(input_channels(weight)),
          static_cast<double>(stored_bytes(weight))};
}

}  // namespace tandem
