// The modules of a graph under the names, and fused as, the checkpoints of its family have them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "tensor/weight.h"

namespace tandem {

class Checkpoint;

struct FamilyModule {
  std::string name;
  // What it is made of, in the order of the graph: Linears, or one operator with a weight.
  std::vector<NodeId> nodes;
  // Of each output channel its number among those of all nodes, one after the other; empty: they
  // are in this order.
  std::vector<std::int64_t> order;
};

// Of all Linears, norms and embeddings, in the order of the graph. A module that the checkpoint has
// under the graph's name keeps it. Throws kUnsupported, naming it, for one that the graph has in
// part only.
std::vector<FamilyModule> family_modules(const Graph& graph, const Checkpoint& checkpoint);

// Of a module of Linears. Throws kInvalidArgument unless its weights have one form.
Weight weight_of(const Graph& graph, const FamilyModule& module);
// Empty for none.
std::vector<float> bias_of(const Graph& graph, const FamilyModule& module);

// What a family adds to the stored gains of its norms: 0, or 1 as Gemma does. `norm` is the node
// that the checkpoint's own graph has for the module `name`. Throws kUnsupported if the gains are
// any other function of the stored ones.
float norm_offset(const Checkpoint& checkpoint, const std::string& name, const Node& norm);

}  // namespace tandem
