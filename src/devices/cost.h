// The cost of a node on any device, derived from its shapes.
#pragma once

#include "devices/panel_linear.h"

namespace tandem {

// The cost of one run of spec.rows tokens. Only Linears count; other nodes are negligible.
inline Cost cost_of(const Node& node, const PhaseSpec& spec) {
  if (node.op != Op::kLinear) return {};
  const Weight& weight = node.as<LinearAttributes>().weight;
  return {static_cast<double>(spec.rows) * static_cast<double>(output_channels(weight)) *
              static_cast<double>(input_channels(weight)),
          static_cast<double>(stored_bytes(weight))};
}

}  // namespace tandem
