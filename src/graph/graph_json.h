// A graph as JSON with its tensors elsewhere: what a package stores.
//
//   {"row_spaces": ["tokens", "selected"],
//    "inputs": [{"name": "input_ids", "dtype": "I32", "rows": "tokens", "width": 1}, …],
//    "nodes": [{"op": "Linear", "name": "model.layers.0.mlp.up_proj", "layer": 0, "inputs": [12],
//               "outputs": [13],
//               "weight": {"bits": 4, …, "codes": REFERENCE, "scales": REFERENCE}}],
//    "outputs": [220]}
// An input of integers with a scale of their own names it: {…, "scales": REFERENCE}. Values are
// numbered in the order in which they are defined: inputs, then what each node writes.
#pragma once

#include <string>

#include "base/json.h"
#include "graph/graph.h"

namespace tandem {

// Where the tensors of a graph that is written go.
class TensorSink {
 public:
  virtual ~TensorSink() = default;
  // Keeps a tensor, which `name` ("model.norm.weight", "…up_proj.codes") describes, and returns the
  // reference by which it will be found.
  virtual std::string keep(const std::string& name, const Tensor& tensor) = 0;
  // The same for a float matrix that is read by rows.
  virtual std::string keep(const std::string& name,
                           const std::shared_ptr<const RowSource>& rows) = 0;
};

// Where the tensors of a graph that is read come from.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  // Throws kNotFound naming the reference.
  virtual Tensor find(const std::string& reference) const = 0;
};

OrderedJson graph_to_json(const Graph& graph, TensorSink& sink);

// Checks every node by its rule and the graph as a whole. Throws kFormat naming the place in
// `json` and what was expected.
Graph graph_from_json(const JsonObject& json, const TensorSource& source);

}  // namespace tandem
