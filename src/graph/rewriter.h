// Builds a new graph from an existing one: the tool that passes are written with.
//
//   Rewriter rewriter(graph);
//   for (NodeId id = 0; id < …; ++id) {
//     if (…) rewriter.replace(graph.node(id).output(), rewriter.add(…));
//     else rewriter.copy(id);
//   }
//   return std::move(rewriter).finish();
#pragma once

#include <string>
#include <vector>

#include "graph/graph.h"

namespace tandem {

class Rewriter {
 public:
  // The new graph starts with the source's row spaces and inputs. `source` must outlive this
  // object.
  explicit Rewriter(const Graph& source);

  // The value of the new graph that replaces a value of the source. Throws kInternal for one whose
  // node was neither copied nor replaced.
  ValueId operator()(ValueId old) const;

  // Appends a node of the source with its inputs mapped to the new graph, optionally with other
  // attributes.
  void copy(NodeId id) { copy(id, source_.node(id).attributes); }
  void copy(NodeId id, Attributes attributes);
  // Appends a new node on values of the new graph. Throws like Graph::add().
  ValueId add(Op op, std::string name, std::int32_t layer, std::vector<ValueId> inputs,
              Attributes attributes = {});
  const std::vector<ValueId>& add_node(Op op, std::string name, std::int32_t layer,
                                       std::vector<ValueId> inputs, Attributes attributes = {});
  // From now on `now`, a value of the new graph, replaces `old`, a value of the source.
  void replace(ValueId old, ValueId now);

  // The new graph so far.
  const Graph& graph() const noexcept { return graph_; }
  const Value& value(ValueId id) const { return graph_.value(id); }
  // The new graph with the outputs of the source mapped to it, verified.
  Graph finish() &&;

 private:
  const Graph& source_;
  Graph graph_;
  // Indexed by value of the source; -1: none yet.
  std::vector<ValueId> stands_for_;
};

}  // namespace tandem
