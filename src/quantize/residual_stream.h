// The residual stream of a decoder, found from the graph alone: the values that carry the hidden
// state from the embedding to the head, and what reads and writes them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace tandem {

struct ResidualStream {
  // Channels; 0 if the graph has no embedding.
  std::int64_t width = 0;
  // What is looked up into it.
  std::vector<NodeId> embeddings;
  // Linears that read it, directly or behind a norm, and those whose output is added to it. A
  // Linear can be both.
  std::vector<NodeId> readers, writers;
  // Why multiplying its values by an orthogonal matrix would change what the graph computes, such
  // as "model.layers.0.post_attention_layernorm: its gain …"; empty if it would not.
  std::string objection;
};

// Of a graph whose norms are folded (fold_norms()): a norm without a gain has the same length of
// vectors before and after a rotation, so it is part of the stream.
ResidualStream find_residual_stream(const Graph& graph);

}  // namespace tandem
