// The weights of a graph's Linears as passes see and change them.
#pragma once

#include <map>
#include <string>

#include "graph/graph.h"
#include "tensor/weight.h"

namespace tandem {

// Of a Linear with a float weight.
const Rows& rows_of(const Node& linear);

// A copy of the graph with other weights of some Linears, by name.
Graph with_weights(const Graph& graph, const std::map<std::string, Rows>& weights);

// The values that codes stand for, computed when they are read.
Rows dequantized_rows(GroupCodes codes);

// Float rows for which a pass has chosen codes, better ones than rounding each weight to nearest.
// They read as the rows do; a transformation of them knows nothing of the codes.
Rows with_codes(Rows rows, GroupCodes codes);
// Those codes; null for any other rows.
const GroupCodes* chosen_codes(const RowSource& rows);

}  // namespace tandem
