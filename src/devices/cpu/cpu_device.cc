// Claims every node for the CPU.
#include "devices/cpu/cpu_device.h"

#include "devices/cost.h"
#include "devices/host/host_program.h"

namespace tandem {
namespace {

std::string reason_for(const Graph& graph, const Node& node) {
  const Value& output = graph.value(node.outputs.front());
  if (node.op != Op::kLinear) return output.dtype == DType::kF32 ? "float32" : "integers";
  const Weight& weight = node.as<LinearAttributes>().weight;
  switch (layout_for(weight, graph.value(node.inputs[0]).dtype).kind) {
    case PanelKind::kInt4:
      return "int4 weights, int8 activations by group";
    case PanelKind::kInt8:
      return "int8 weights, int8 activations";
    default:
      return std::holds_alternative<FloatWeight>(weight) ? "float weights"
                                                         : "codes computed with as floats";
  }
}

}  // namespace

Offer CpuDevice::offer(const Graph& graph, const PhaseSpec& spec) const {
  Offer offer;
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    offer.claims.push_back({{id}, {reason_for(graph, node)}, cost_of(graph, node, spec)});
  }
  return offer;
}

std::unique_ptr<Program> CpuDevice::compile(const Graph& segment,
                                            const CompileContext& context) const {
  return compile_for_host(segment, kernels_, context, RowCount::kGiven);
}

}  // namespace tandem
