// The weights of a graph's Linears as passes see and change them.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "tensor/weight.h"

namespace tandem {

// The values of a Linear's weight: its rows, or those behind its codes, dequantized when they are
// read.
Rows rows_of(const Node& linear);
Rows rows_of(const Weight& weight);

// The weight of a Linear if it is float, else null; null for any other node.
const FloatWeight* float_weight(const Node& node);

// Whether a Linear's weight is the table of the graph's embedding, in the same memory, as that of a
// tied head is.
bool is_embedding_of(const Graph& graph, const Node& linear);

// The Linears of decoder blocks, by the value that they read.
using LinearsByInput = std::map<ValueId, std::vector<NodeId>>;
LinearsByInput linears_by_input(const Graph& graph, const std::function<bool(const Node&)>& counts);
std::vector<ValueId> inputs_of(const LinearsByInput& linears);

// A copy of the graph with other weights of some Linears, by name.
Graph with_weights(const Graph& graph, const std::map<std::string, Rows>& weights);

// Float rows for which a pass has chosen codes, better ones than rounding each weight to nearest.
// They read as the rows do; a transformation of them knows nothing of the codes.
Rows with_codes(Rows rows, GroupCodes codes);
// Those codes; null for any other rows.
const GroupCodes* chosen_codes(const RowSource& rows);

}  // namespace tandem
