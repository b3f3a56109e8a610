// The demo model as a float graph, with its weights as they are or with one tensor replaced.
#pragma once

#include <map>
#include <string>
#include <utility>

#include "checkpoint/checkpoint.h"
#include "models/model.h"
#include "support.h"

namespace tandem::testing {

class DemoGraph {
 public:
  explicit DemoGraph(std::map<std::string, Tensor> replaced = {})
      : checkpoint_(Checkpoint::open(demo_dir())),
        weights_(checkpoint_, std::move(replaced)),
        graph_(build_graph(checkpoint_.config_object(), weights_)) {}

  const Graph& graph() const { return graph_; }

 private:
  class Weights : public CheckpointWeights {
   public:
    Weights(const Checkpoint& checkpoint, std::map<std::string, Tensor> replaced)
        : CheckpointWeights(checkpoint), replaced_(std::move(replaced)) {}
    Tensor tensor(const std::string& name, const Shape& expected) const override {
      const auto found = replaced_.find(name);
      return found != replaced_.end() ? found->second : CheckpointWeights::tensor(name, expected);
    }

   private:
    std::map<std::string, Tensor> replaced_;
  };

  Checkpoint checkpoint_;
  Weights weights_;
  Graph graph_;
};

}  // namespace tandem::testing
