// Maps values of the source graph to values of the new one.
#include "graph/rewriter.h"

#include <utility>

#include "base/error.h"

namespace tandem {

Rewriter::Rewriter(const Graph& source) : source_(source), stands_for_(source.values().size(), -1) {
  for (const std::string& name : source.row_spaces()) graph_.row_space(name);
  for (const ValueId input : source.inputs()) replace(input, graph_.add_input(source.value(input)));
}

ValueId Rewriter::operator()(ValueId old) const {
  const ValueId now = stands_for_.at(static_cast<std::size_t>(old));
  if (now < 0)
    fail(ErrorCode::kInternal, "[rewriter] nothing stands for %{} {}: its node was left out", old,
         source_.value(old).name);
  return now;
}

void Rewriter::copy(NodeId id, Attributes attributes) {
  const Node& node = source_.node(id);
  std::vector<ValueId> inputs;
  for (const ValueId input : node.inputs) inputs.push_back((*this)(input));
  const auto& outputs =
      graph_.add_node(node.op, node.name, node.layer, std::move(inputs), std::move(attributes));
  for (std::size_t i = 0; i < outputs.size(); ++i) replace(node.outputs[i], outputs[i]);
}

ValueId Rewriter::add(Op op, std::string name, std::int32_t layer, std::vector<ValueId> inputs,
                      Attributes attributes) {
  return graph_.add(op, std::move(name), layer, std::move(inputs), std::move(attributes));
}

const std::vector<ValueId>& Rewriter::add_node(Op op, std::string name, std::int32_t layer,
                                               std::vector<ValueId> inputs, Attributes attributes) {
  return graph_.add_node(op, std::move(name), layer, std::move(inputs), std::move(attributes));
}

void Rewriter::replace(ValueId old, ValueId now) {
  stands_for_.at(static_cast<std::size_t>(old)) = now;
}

Graph Rewriter::finish() && {
  std::vector<ValueId> outputs;
  for (const ValueId output : source_.outputs()) outputs.push_back((*this)(output));
  graph_.set_outputs(std::move(outputs));
  verify(graph_);
  return std::move(graph_);
}

}  // namespace tandem
