// Checks nodes against the NPU contract and groups those that satisfy it into claims.
#include "devices/npu/npu_device.h"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>

#include "base/error.h"
#include "devices/cost.h"
#include "devices/host/host_program.h"
#include "graph/uses.h"

namespace tandem {
namespace {

struct Word {
  Op op;
  std::string_view reason;
};

// The reasons for operators that never run on the NPU.
constexpr std::array kRefusals = {
    Word{Op::kRotaryAngles, "depends on the position; float32 on the CPU"},
    Word{Op::kRmsNorm, "int8 would lose precision; float32 on the CPU"},
    Word{Op::kSoftcap, "the logits stay in float32 on the CPU"},
    Word{Op::kAdd, "the residual stream stays in float32 on the CPU"},
    Word{Op::kEmbedding, "data-dependent rows"},
    Word{Op::kSelectRows, "data-dependent rows"},
    Word{Op::kDynamicQuantize, "scales that depend on the data"},
    Word{Op::kRequantize, "target host: sums leave as floats"},
    Word{Op::kHadamard, "float32 on the CPU"},
    Word{Op::kShadowLinear, "what int8 clips depends on the data; float32 on the CPU"},
};

// Determines which nodes satisfy the contract, and why the others don't.
class Inspector {
 public:
  Inspector(const Graph& graph, std::int64_t context)
      : graph_(graph), uses_(graph), context_(context) {
    const auto nodes = static_cast<NodeId>(graph.nodes().size());
    refusals_.resize(graph.nodes().size());
    for (NodeId id = 0; id < nodes; ++id) refusals_[index(id)] = refuse(id);
    // A Quantize that nothing reads, or that is read by unclaimed nodes, is left out. Iterates
    // backwards because readers come later.
    for (NodeId id = nodes - 1; id >= 0; --id)
      if (is_quantize(graph.node(id).op) && refusals_[index(id)].empty() && !serves(id))
        refusals_[index(id)] = "its codes are not for the NPU";
  }

  bool claimed(NodeId id) const { return refusals_[index(id)].empty(); }
  const std::string& refusal(NodeId id) const { return refusals_[index(id)]; }
  std::string reason(NodeId id) const {
    const Node& node = graph_.node(id);
    if (node.op == Op::kGroupQueryAttention || node.op == Op::kRotaryEmbedding)
      return fmt::format("context of {}, int8 cache", context_);
    const bool codes = node.op == Op::kLinear || node.op == Op::kDequantize || is_quantize(node.op);
    if (!codes) return "between int8 Linears";
    const ValueId read = is_quantize(node.op) ? node.output() : node.inputs[0];
    const DType dtype = graph_.value(read).dtype;
    return dtype == DType::kI16 || dtype == DType::kI64 ? "static int16" : "static int8";
  }
  const Uses& uses() const { return uses_; }

 private:
  static bool is_quantize(Op op) { return op == Op::kQuantize || op == Op::kQuantizeInt16; }
  static std::size_t index(NodeId id) { return static_cast<std::size_t>(id); }

  // The reason to refuse the node, judging by what comes before it; empty if it can run here.
  std::string refuse(NodeId id) const {
    const Node& node = graph_.node(id);
    for (const ValueId value : node.outputs)
      if (graph_.value(value).rows != kTokens) return "rows that depend on the data";
    switch (node.op) {
      case Op::kLinear:
        return refuse_linear(node);
      case Op::kGroupQueryAttention:
        return refuse_attention(node);
      case Op::kRotaryEmbedding:
        return refuse_rotary(node);
      case Op::kQuantize:
      case Op::kQuantizeInt16:
        return {};
      case Op::kDequantize:
        return from_claimed(node, "its sums are not the NPU's");
      case Op::kSilu:
      case Op::kGelu:
      case Op::kMul:
        return from_claimed(node, "not between int8 Linears");
      default:
        return std::string(std::ranges::find(kRefusals, node.op, &Word::op)->reason);
    }
  }

  std::string refuse_attention(const Node& node) const {
    const auto& attention = node.as<AttentionAttributes>();
    if (context_ == 0) return "reads a cache whose length changes";
    if (attention.int16_scales.empty()) return "has no scales; float32 on the CPU";
    if (context_ > kMaxIntColumns) return "the context is too long; float32 on the CPU";
    if (attention.head_dim > kMaxIntHeadDim) return "sums beyond int32; float32 on the CPU";
    if (attention.softcap > 0 || attention.scale <= 0) return "caps scores; float32 on the CPU";
    return {};
  }

  // Is part of the attention that alone reads it.
  std::string refuse_rotary(const Node& node) const {
    const auto readers = uses_.readers(node.output());
    const bool is_part = readers.size() == 1 && !uses_.is_output(node.output()) &&
                         graph_.node(readers.front()).op == Op::kGroupQueryAttention &&
                         refuse_attention(graph_.node(readers.front())).empty();
    return is_part ? "" : "depends on the position; float32 on the CPU";
  }

  std::string refuse_linear(const Node& node) const {
    const Value& input = graph_.value(node.inputs[0]);
    if (!std::holds_alternative<ChannelCodes>(node.as<LinearAttributes>().weight))
      return "weight is not int8";
    const bool codes = input.dtype == DType::kI8 || input.dtype == DType::kI16;
    if (!codes || !input.quantization) return "input has no static int8 scale";
    return {};
  }

  // Only outputs of claimed nodes, other than codes, can be processed further.
  std::string from_claimed(const Node& node, const char* refusal) const {
    const bool all = std::ranges::all_of(node.inputs, [&](ValueId input) {
      const NodeId producer = uses_.producer(input);
      return producer >= 0 && claimed(producer);
    });
    return all ? "" : refusal;
  }

  bool serves(NodeId quantize) const {
    const auto readers = uses_.readers(graph_.node(quantize).output());
    return std::ranges::any_of(readers, [&](NodeId reader) { return claimed(reader); });
  }

  const Graph& graph_;
  Uses uses_;
  std::int64_t context_;
  // By node; empty: claimed.
  std::vector<std::string> refusals_;
};

// Numbers the connected parts of the claimed nodes: parts[node] for each claimed node.
std::vector<NodeId> connected_parts(const Graph& graph, const Inspector& inspector) {
  std::vector<NodeId> parts(graph.nodes().size());
  std::iota(parts.begin(), parts.end(), 0);
  const auto root = [&](NodeId id) {
    while (parts[static_cast<std::size_t>(id)] != id) {
      NodeId& parent = parts[static_cast<std::size_t>(id)];
      parent = parts[static_cast<std::size_t>(parent)];
      id = parent;
    }
    return id;
  };
  for (NodeId id = 0; id < static_cast<NodeId>(parts.size()); ++id) {
    if (!inspector.claimed(id)) continue;
    for (const ValueId input : graph.node(id).inputs) {
      const NodeId producer = inspector.uses().producer(input);
      if (producer >= 0 && inspector.claimed(producer))
        parts[static_cast<std::size_t>(root(id))] = root(producer);
    }
  }
  for (NodeId id = 0; id < static_cast<NodeId>(parts.size()); ++id)
    parts[static_cast<std::size_t>(id)] = root(id);
  return parts;
}

}  // namespace

Offer NpuHostDevice::offer(const Graph& graph, const PhaseSpec& spec) const {
  const Inspector inspector(graph, spec.context);
  const std::vector<NodeId> parts = connected_parts(graph, inspector);
  Offer offer;
  std::map<NodeId, std::size_t> claim_of;
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    if (!inspector.claimed(id)) {
      offer.refusals.push_back({id, inspector.refusal(id)});
      continue;
    }
    const auto [found, is_new] =
        claim_of.try_emplace(parts[static_cast<std::size_t>(id)], offer.claims.size());
    if (is_new) offer.claims.emplace_back();
    Claim& claim = offer.claims[found->second];
    claim.nodes.push_back(id);
    claim.reasons.push_back(inspector.reason(id));
    claim.cost += cost_of(graph, graph.node(id), spec);
  }
  return offer;
}

std::unique_ptr<Program> NpuHostDevice::compile(const Graph& segment,
                                                const CompileContext& context) const {
  if (context.spec.rows < 1 || context.max_rows.at(kTokens) < context.spec.rows)
    fail(ErrorCode::kInternal, "[npu] buffers of {} rows cannot hold a chunk of {}",
         context.max_rows.at(kTokens), context.spec.rows);
  return compile_for_host(segment, kernels_, context, RowCount::kFixed);
}

}  // namespace tandem
