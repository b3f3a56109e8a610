#include "devices/npu/npu_device.h"

#include <algorithm>

#include "base/error.h"

namespace tandem {
namespace {

const Int8Channels* int8_weight(const Node& node) {
  if (node.op != Op::kLinear) return nullptr;
  return std::get_if<Int8Channels>(&node.as<LinearAttributes>().weight);
}

bool is_static_int8(const Node& node) {
  const Int8Channels* weight = int8_weight(node);
  return weight != nullptr && why_not_static(*weight).empty();
}

// True if the value is computed by static int8 Linears, through activations and products alone.
bool comes_from_int8(const Graph& graph, ValueId value) {
  const auto producer = std::find_if(graph.nodes().begin(), graph.nodes().end(),
                                     [&](const Node& node) { return node.output == value; });
  if (producer == graph.nodes().end()) return false;
  if (producer->op == Op::kSilu || producer->op == Op::kMul) {
    return std::all_of(producer->inputs.begin(), producer->inputs.end(),
                       [&](ValueId input) { return comes_from_int8(graph, input); });
  }
  return is_static_int8(*producer);
}

// One stage of a program: Linears that share an input, or an element-wise node. Every stage
// computes all rows of the chunk, as the hardware would.
struct Stage {
  const Node* node = nullptr;  // element-wise, or null
  std::int64_t width = 0;      // of the node's output
  ValueId input = -1;          // of the Linears
  std::vector<PackedLinear> linears;
};

class NpuHostProgram : public Program {
 public:
  NpuHostProgram(const Kernels& kernels, std::int64_t chunk, std::shared_ptr<Scratch> scratch,
                 std::vector<Stage> stages)
      : kernels_(kernels),
        chunk_(chunk),
        scratch_(std::move(scratch)),
        stages_(std::move(stages)) {}

  void run(const RunContext& context) override {
    if (context.rows() > chunk_) {
      fail(ErrorCode::kInternal, "[npu] {} rows given to a program of {}", context.rows(), chunk_);
    }
    for (const Stage& stage : stages_) {
      if (stage.node == nullptr) {
        run_linears(context, stage);
      } else {
        run_element_wise(context, stage);
      }
    }
  }

  std::int64_t weight_bytes() const override {
    std::int64_t bytes = 0;
    for (const Stage& stage : stages_) {
      for (const PackedLinear& linear : stage.linears) bytes += linear.layout.bytes();
    }
    return bytes;
  }

 private:
  void run_linears(const RunContext& context, const Stage& stage) {
    const PackedLinear& first = stage.linears.front();
    const std::int64_t k = first.layout.k;
    const std::int64_t stride = padded_k(k);
    const float* x = context.values[static_cast<std::size_t>(stage.input)];
    context.pool.parallel_for(chunk_, 1, [&](Range range) {
      for (std::int64_t r = range.begin; r < range.end; ++r) {
        if (r < context.rows()) {
          kernels_.quantize_static(x + r * k, k, first.input_scale, scratch_->codes() + r * stride,
                                   scratch_->sums() + r);
        } else {
          std::fill_n(scratch_->codes() + r * stride, stride, std::int8_t{0});
          scratch_->sums()[r] = 0;
        }
      }
    });
    run_int8_linears(kernels_, stage.linears,
                     {scratch_->codes(), stride, scratch_->sums(), first.input_scale}, chunk_,
                     context);
  }

  void run_element_wise(const RunContext& context, const Stage& stage) {
    const auto value = [&](ValueId id) { return context.values[static_cast<std::size_t>(id)]; };
    float* y = value(stage.node->output);
    context.pool.parallel_for(chunk_, 1, [&](Range range) {
      const std::int64_t begin = range.begin * stage.width;
      const std::int64_t count = range.size() * stage.width;
      const float* a = value(stage.node->inputs[0]) + begin;
      if (stage.node->op == Op::kSilu) {
        kernels_.silu(a, count, y + begin);
      } else {
        kernels_.mul(a, value(stage.node->inputs[1]) + begin, count, y + begin);
      }
    });
  }

  const Kernels& kernels_;
  std::int64_t chunk_;
  std::shared_ptr<Scratch> scratch_;
  std::vector<Stage> stages_;
};

}  // namespace

NpuHostDevice::NpuHostDevice(const Kernels& kernels, std::int64_t chunk)
    : kernels_(kernels), chunk_(chunk), scratch_(std::make_shared<Scratch>()) {}
NpuHostDevice::~NpuHostDevice() = default;

Support NpuHostDevice::supports(const Graph& graph, const Node& node, Phase phase) const {
  if (phase == Phase::kDecode) return {false, "decode: one row would fill a chunk with padding"};
  switch (node.op) {
    case Op::kLinear:
      if (int8_weight(node) == nullptr) return {false, "weight is not int8"};
      if (!is_static_int8(node)) return {false, why_not_static(*int8_weight(node))};
      return {true, "static int8"};
    case Op::kSilu:
    case Op::kMul:
      if (comes_from_int8(graph, node.output)) return {true, "between int8 Linears"};
      return {false, "not between int8 Linears"};
    case Op::kGroupQueryAttention:
      return {false, "reads a cache whose length changes"};
    case Op::kRotaryEmbedding:
      return {false, "depends on the position; float32 on the CPU"};
    case Op::kRmsNorm:
      return {false, "int8 would lose precision; float32 on the CPU"};
    case Op::kAdd:
      return {false, "the residual stream stays in float32 on the CPU"};
    case Op::kEmbedding:
    case Op::kSelectRows:
      return {false, "data-dependent rows"};
  }
  return {false, "unknown operator"};
}

std::unique_ptr<Program> NpuHostDevice::compile(const Graph& graph, NodeId begin, NodeId end,
                                                const CompileContext& context) const {
  if (context.max_rows < chunk_) {
    fail(ErrorCode::kInternal, "[npu] buffers of {} rows cannot hold a chunk of {}",
         context.max_rows, chunk_);
  }
  std::vector<Stage> stages;
  for (NodeId id = begin; id < end; ++id) {
    const Node& node = graph.node(id);
    if (node.op != Op::kLinear) {
      stages.push_back({&node, graph.value(node.output).width, -1, {}});
      continue;
    }
    // Linears share a quantized input only where their static scales agree too.
    const bool joins = !stages.empty() && stages.back().node == nullptr &&
                       stages.back().input == node.inputs[0] &&
                       stages.back().linears.front().input_scale == int8_weight(node)->input_scale;
    if (!joins) {
      scratch_->reserve_rows(chunk_, int8_weight(node)->k, 1);
      stages.push_back({nullptr, 0, node.inputs[0], {}});
    }
    stages.back().linears.push_back(pack_linear(node, context));
  }
  return std::make_unique<NpuHostProgram>(kernels_, chunk_, scratch_, std::move(stages));
}

}  // namespace tandem
