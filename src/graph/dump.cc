// A graph as text, for people and for tests.
#include <iterator>
#include <string>
#include <type_traits>
#include <variant>

#include "base/error.h"
#include "graph/graph.h"

namespace tandem {
namespace {

// What distinguishes a node besides its inputs, each part with a space before it.
std::string describe_attributes(const Attributes& attributes) {
  return std::visit(
      [](const auto& a) -> std::string {
        using T = std::decay_t<decltype(a)>;
        if constexpr (std::is_same_v<T, EmbeddingAttributes>) {
          std::string text =
              fmt::format(" {} {}", to_string(a.table.dtype()), to_string(a.table.shape()));
          if (a.scale != 1) text += fmt::format(" scale {}", a.scale);
          return text;
        } else if constexpr (std::is_same_v<T, LinearAttributes>) {
          return fmt::format(" {}{}", describe(a.weight), a.bias.empty() ? "" : " + bias");
        } else if constexpr (std::is_same_v<T, RmsNormAttributes>) {
          const std::string heads = a.heads == 1 ? "" : fmt::format(" heads {}", a.heads);
          return fmt::format(" epsilon {}{}", a.epsilon, heads);
        } else if constexpr (std::is_same_v<T, RotaryAttributes>) {
          std::string text = fmt::format(" {} x {}", a.heads, a.head_dim);
          const auto rotary_dim = 2 * static_cast<std::int64_t>(a.inverse_frequencies.size());
          if (rotary_dim != a.head_dim) text += fmt::format(" rotary {}", rotary_dim);
          if (a.attention_factor != 1) text += fmt::format(" factor {}", a.attention_factor);
          if (a.extension.original_context > 0)
            text += fmt::format(" extended beyond {}", a.extension.original_context);
          return text;
        } else if constexpr (std::is_same_v<T, SoftcapAttributes>) {
          return fmt::format(" cap {}", a.cap);
        } else if constexpr (std::is_same_v<T, AttentionAttributes>) {
          std::string text =
              fmt::format(" {}:{} x {} scale {}", a.heads, a.kv_heads, a.head_dim, a.scale);
          if (a.window > 0) text += fmt::format(" window {}", a.window);
          if (a.softcap > 0) text += fmt::format(" softcap {}", a.softcap);
          return text;
        } else {
          return {};
        }
      },
      attributes);
}

}  // namespace

std::string dump(const Graph& graph) {
  std::string text;
  auto out = std::back_inserter(text);
  for (const Node& node : graph.nodes()) {
    std::string inputs;
    for (const ValueId id : node.inputs)
      inputs += fmt::format("{}%{}", inputs.empty() ? "" : ", ", id);
    const Value& output = graph.value(node.output);
    fmt::format_to(out, "%{} = {}({}) {}{} -> [{}, {}]\n", node.output, to_string(node.op), inputs,
                   node.name, describe_attributes(node.attributes),
                   output.rows == Rows::kTokens ? "tokens" : "selected", output.width);
  }
  return text;
}

}  // namespace tandem
