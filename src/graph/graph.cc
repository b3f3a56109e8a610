// Building a graph node by node; every node is checked as it is added.
#include "graph/graph.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "graph/ops.h"

namespace tandem {
namespace {

// Far more than any model has; bounds what verify() and the runtime allocate per layer.
constexpr std::int32_t kMaxLayer = 65535;

bool fits(const Quantization& quantization, const Value& value) {
  const Tensor& scales = quantization.scales;
  if (scales.empty() || scales.dtype() != DType::kF32 ||
      (scales.elements() != 1 && scales.elements() != value.width))
    return false;
  return std::ranges::all_of(scales.as<float>(),
                             [](float scale) { return std::isfinite(scale) && scale > 0; });
}

}  // namespace

RowSpaceId Graph::row_space(std::string_view name) {
  const auto found = std::ranges::find(row_spaces_, name);
  if (found != row_spaces_.end()) return static_cast<RowSpaceId>(found - row_spaces_.begin());
  row_spaces_.emplace_back(name);
  return static_cast<RowSpaceId>(row_spaces_.size() - 1);
}

ValueId Graph::add_input(Value value) {
  const auto id = static_cast<ValueId>(values_.size());
  if (value.width < 1 || value.rows < 0 ||
      static_cast<std::size_t>(value.rows) >= row_spaces_.size())
    fail(ErrorCode::kFormat, "[graph] input {}: expected a width above 0 and one of {} row spaces",
         value.name, row_spaces_.size());
  if (value.quantization && !fits(*value.quantization, value))
    fail(ErrorCode::kFormat, "[graph] input {}: expected 1 or {} finite scales above 0 in F32",
         value.name, value.width);
  values_.push_back(std::move(value));
  inputs_.push_back(id);
  return id;
}

const std::vector<ValueId>& Graph::add_node(Op op, std::string name, std::int32_t layer,
                                            std::vector<ValueId> inputs, Attributes attributes) {
  if (layer < -1 || layer > kMaxLayer)
    fail(ErrorCode::kFormat, "[{}] {}: expected a layer in [-1, {}], got {}", info(op).error_part,
         name, kMaxLayer, layer);
  std::vector<Value> read;
  read.reserve(inputs.size());
  for (const ValueId id : inputs) {
    if (id < 0 || static_cast<std::size_t>(id) >= values_.size())
      fail(ErrorCode::kFormat, "[{}] {}: input %{} is not defined, expected one of {} values",
           info(op).error_part, name, id, values_.size());
    read.push_back(value(id));
  }
  std::vector<ValueId> outputs;
  for (Value& written : infer_outputs({op, name, read, attributes})) {
    outputs.push_back(static_cast<ValueId>(values_.size()));
    values_.push_back(std::move(written));
  }
  nodes_.push_back(Node{.op = op,
                        .name = std::move(name),
                        .layer = layer,
                        .inputs = std::move(inputs),
                        .outputs = std::move(outputs),
                        .attributes = std::move(attributes)});
  return nodes_.back().outputs;
}

ValueId Graph::add(Op op, std::string name, std::int32_t layer, std::vector<ValueId> inputs,
                   Attributes attributes) {
  const auto& outputs =
      add_node(op, std::move(name), layer, std::move(inputs), std::move(attributes));
  if (outputs.size() != 1)
    fail(ErrorCode::kInternal, "[{}] {}: writes {} values, expected one", info(op).error_part,
         nodes_.back().name, outputs.size());
  return outputs.front();
}

std::int32_t Graph::layers() const noexcept {
  std::int32_t count = 0;
  for (const Node& node : nodes_) count = std::max(count, node.layer + 1);
  return count;
}

bool Graph::has_kv_scales() const noexcept {
  int with = 0, all = 0;
  for (const Node& node : nodes_) {
    const auto* attention = std::get_if<AttentionAttributes>(&node.attributes);
    if (attention == nullptr) continue;
    ++all;
    if (attention->has_kv_scales()) ++with;
  }
  return all > 0 && with == all;
}

}  // namespace tandem
