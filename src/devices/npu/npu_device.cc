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
  if (producer->op == Op::kSilu || producer->op == Op::kGelu || producer->op == Op::kMul) {
    return std::all_of(producer->inputs.begin(), producer->inputs.end(),
                       [&](ValueId input) { return comes_from_int8(graph, input); });
  }
  return is_static_int8(*producer);
}

// One stage of a program: element-wise nodes, then the Linears that read their result (or an input
// of the segment). Every stage computes all rows of the chunk, as the hardware would; between
// stages the threads meet.
struct Stage {
  std::vector<const Node*> element_wise;
  ValueId input = -1;  // of the Linears
  std::vector<PackedLinear> linears;
};

class NpuHostProgram : public Program {
 public:
  NpuHostProgram(const Graph& graph, const Kernels& kernels, std::int64_t chunk,
                 std::shared_ptr<Scratch> scratch, std::vector<Stage> stages)
      : graph_(graph),
        kernels_(kernels),
        chunk_(chunk),
        scratch_(std::move(scratch)),
        stages_(std::move(stages)) {}

  void run(const RunContext& context) override {
    if (context.rows() > chunk_) {
      fail(ErrorCode::kInternal, "[npu] {} rows given to a program of {}", context.rows(), chunk_);
    }
    for (const Stage& stage : stages_) {
      context.pool.parallel_for(chunk_, 1, [&](Range range) {
        // Row by row, so that what one operator writes is still in the cache when the next reads
        // it.
        for (std::int64_t row = range.begin; row < range.end; ++row) {
          for (const Node* node : stage.element_wise) run_element_wise(context, *node, row);
          if (!stage.linears.empty()) quantize_input(context, stage, row);
        }
      });
      if (stage.linears.empty()) continue;
      const PackedLinear& first = stage.linears.front();
      run_int8_linears(
          kernels_, stage.linears,
          {scratch_->codes(), code_stride(first.layout.k), scratch_->sums(), first.input_scale},
          chunk_, context);
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
  void quantize_input(const RunContext& context, const Stage& stage, std::int64_t row) const {
    const PackedLinear& first = stage.linears.front();
    const std::int64_t k = first.layout.k;
    std::int8_t* codes = scratch_->codes() + row * code_stride(k);
    if (row < context.rows()) {
      const float* x = context.values[static_cast<std::size_t>(stage.input)];
      kernels_.quantize_static(x + row * k, k, first.input_scale, codes, scratch_->sums() + row);
    } else {
      std::fill_n(codes, padded_k(k), std::int8_t{0});
      scratch_->sums()[row] = 0;
    }
  }

  void run_element_wise(const RunContext& context, const Node& node, std::int64_t row) const {
    const std::int64_t width = graph_.value(node.output).width;
    const auto value = [&](ValueId id) {
      return context.values[static_cast<std::size_t>(id)] + row * width;
    };
    if (node.op == Op::kSilu) {
      kernels_.silu(value(node.inputs[0]), width, value(node.output));
    } else if (node.op == Op::kGelu) {
      kernels_.gelu(value(node.inputs[0]), width, value(node.output));
    } else {
      kernels_.mul(value(node.inputs[0]), value(node.inputs[1]), width, value(node.output));
    }
  }

  const Graph& graph_;
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
    case Op::kGelu:
    case Op::kMul:
      if (comes_from_int8(graph, node.output)) return {true, "between int8 Linears"};
      return {false, "not between int8 Linears"};
    case Op::kGroupQueryAttention:
      return {false, "reads a cache whose length changes"};
    case Op::kRotaryEmbedding:
      return {false, "depends on the position; float32 on the CPU"};
    case Op::kRmsNorm:
      return {false, "int8 would lose precision; float32 on the CPU"};
    case Op::kSoftcap:
      return {false, "the logits stay in float32 on the CPU"};
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
      if (stages.empty() || !stages.back().linears.empty()) stages.emplace_back();
      stages.back().element_wise.push_back(&node);
      continue;
    }
    // Linears share a quantized input only where their static scales agree too.
    const auto joins = [&](const Stage& stage) {
      return stage.linears.empty() ||
             (stage.input == node.inputs[0] &&
              stage.linears.front().input_scale == int8_weight(node)->input_scale);
    };
    if (stages.empty() || !joins(stages.back())) stages.emplace_back();
    stages.back().input = node.inputs[0];
    scratch_->reserve_rows(chunk_, int8_weight(node)->k, 1);
    stages.back().linears.push_back(pack_linear(node, context));
  }
  return std::make_unique<NpuHostProgram>(graph, kernels_, chunk_, scratch_, std::move(stages));
}

}  // namespace tandem
