#include "devices/cpu/cpu_device.h"

#include "devices/cpu/steps.h"

namespace tandem {
namespace {

class CpuProgram : public Program {
 public:
  explicit CpuProgram(std::vector<std::unique_ptr<Step>> steps) : steps_(std::move(steps)) {}

  void run(const RunContext& context) override {
    for (const auto& step : steps_) step->run(context);
  }

  std::int64_t weight_bytes() const override {
    std::int64_t bytes = 0;
    for (const auto& step : steps_) bytes += step->weight_bytes();
    return bytes;
  }

 private:
  std::vector<std::unique_ptr<Step>> steps_;
};

// Two row-wise nodes may run back to back on the same share of rows only if a row is the same thing
// in both.
bool same_rows(const Graph& graph, const Node& a, const Node& b) {
  return b.op != Op::kSelectRows && graph.value(a.output).rows == graph.value(b.output).rows;
}

}  // namespace

CpuDevice::CpuDevice(const Kernels& kernels)
    : kernels_(kernels),
      scratch_(std::make_shared<Scratch>()),
      rotary_(std::make_shared<RotaryTables>()) {}
CpuDevice::~CpuDevice() = default;

Support CpuDevice::supports(const Graph&, const Node& node, Phase) const {
  if (node.op != Op::kLinear) return {true, "float32"};
  const Weight& weight = node.as<LinearAttributes>().weight;
  if (std::holds_alternative<Int4Groups>(weight))
    return {true, "int4 weights, int8 activations by group"};
  if (const auto* int8 = std::get_if<Int8Channels>(&weight)) {
    const std::string refusal = why_not_static(*int8);
    if (!refusal.empty()) return {false, refusal};
    return {true, "int8 weights, static int8 activations"};
  }
  return {true, "float weights"};
}

std::unique_ptr<Program> CpuDevice::compile(const Graph& graph, NodeId begin, NodeId end,
                                            const CompileContext& context) const {
  const StepContext step_context{graph, kernels_, scratch_, rotary_, context};
  std::vector<std::unique_ptr<Step>> steps;
  for (NodeId id = begin; id < end;) {
    const Node& node = graph.node(id);
    std::vector<NodeId> run{id++};
    if (node.op == Op::kLinear) {
      while (id < end && can_share_input(node, graph.node(id))) run.push_back(id++);
      steps.push_back(make_linear_step(step_context, run));
    } else if (node.op == Op::kGroupQueryAttention) {
      steps.push_back(make_attention_step(step_context, run.front()));
    } else {
      while (id < end && is_row_wise(graph.node(id).op) && same_rows(graph, node, graph.node(id))) {
        run.push_back(id++);
      }
      steps.push_back(make_row_wise_step(step_context, run));
    }
  }
  return std::make_unique<CpuProgram>(std::move(steps));
}

}  // namespace tandem
