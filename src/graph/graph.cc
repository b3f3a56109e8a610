// Building a graph node by node; every node is checked as it is added.
#include "graph/graph.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "graph/shape_inference.h"

namespace tandem {
namespace {

// Far above any model; bounds what verify() and the runtime allocate per layer.
constexpr std::int32_t kMaxLayer = 65535;

}  // namespace

std::string_view to_string(Op op) noexcept {
  switch (op) {
    case Op::kEmbedding:
      return "Embedding";
    case Op::kLinear:
      return "Linear";
    case Op::kRmsNorm:
      return "RmsNorm";
    case Op::kRotaryEmbedding:
      return "RotaryEmbedding";
    case Op::kGroupQueryAttention:
      return "GroupQueryAttention";
    case Op::kSilu:
      return "SiLU";
    case Op::kGelu:
      return "GELU";
    case Op::kMul:
      return "Mul";
    case Op::kAdd:
      return "Add";
    case Op::kSoftcap:
      return "Softcap";
    case Op::kSelectRows:
      return "SelectRows";
  }
  return "Unknown";
}

ValueId Graph::add_input(std::string name) {
  const auto id = static_cast<ValueId>(values_.size());
  values_.push_back(
      {.name = std::move(name), .dtype = DType::kI32, .rows = Rows::kTokens, .width = 1});
  input = id;
  return id;
}

ValueId Graph::add(Op op, std::string name, std::int32_t layer, std::vector<ValueId> inputs,
                   Attributes attributes) {
  if (layer < -1 || layer > kMaxLayer)
    fail(ErrorCode::kFormat, "[{}] {}: expected a layer in [-1, {}], got {}", error_part(op), name,
         kMaxLayer, layer);
  std::vector<Value> read;
  read.reserve(inputs.size());
  for (const ValueId id : inputs) {
    if (id < 0 || static_cast<std::size_t>(id) >= values_.size())
      fail(ErrorCode::kFormat, "[{}] {}: input %{} is not defined, expected one of {} values",
           error_part(op), name, id, values_.size());
    read.push_back(value(id));
  }
  Value written = infer_output(op, name, read, attributes);
  const auto id = static_cast<ValueId>(values_.size());
  values_.push_back(std::move(written));
  nodes_.push_back(Node{.op = op,
                        .name = std::move(name),
                        .layer = layer,
                        .inputs = std::move(inputs),
                        .output = id,
                        .attributes = std::move(attributes)});
  return id;
}

std::int32_t Graph::layers() const noexcept {
  std::int32_t count = 0;
  for (const Node& node : nodes_) count = std::max(count, node.layer + 1);
  return count;
}

}  // namespace tandem
