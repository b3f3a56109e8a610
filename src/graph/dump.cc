// A graph as text, for people and for tests.
#include <iterator>
#include <string>

#include "base/error.h"
#include "graph/ops.h"

namespace tandem {
namespace {

std::string list(const std::vector<ValueId>& ids) {
  std::string text;
  for (const ValueId id : ids) text += fmt::format("{}%{}", text.empty() ? "" : ", ", id);
  return text;
}

// "[tokens, 768]", the type before it where a value is not float: "I8 [tokens, 768]".
std::string describe(const Graph& graph, const Value& value) {
  const std::string type =
      value.dtype == DType::kF32 ? "" : fmt::format("{} ", to_string(value.dtype));
  return fmt::format("{}[{}, {}]", type, graph.row_spaces()[static_cast<std::size_t>(value.rows)],
                     value.width);
}

}  // namespace

std::string dump(const Graph& graph) {
  std::string text;
  auto out = std::back_inserter(text);
  for (const Node& node : graph.nodes()) {
    std::string outputs;
    for (const ValueId id : node.outputs)
      outputs += fmt::format("{}{}", outputs.empty() ? "" : ", ", describe(graph, graph.value(id)));
    fmt::format_to(out, "{} = {}({}) {}{} -> {}\n", list(node.outputs), to_string(node.op),
                   list(node.inputs), node.name, info(node.op).describe(node.attributes), outputs);
  }
  return text;
}

}  // namespace tandem
