// Rounding of a float model's Linears while they are written as ONNX, as ONNX Runtime's own quantizer
// rounds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "graph/graph.h"
#include "onnx/export_model.h"

namespace tandem {

struct OnnxRoundingSettings {
  // 4 or 8.
  int bits = 4;
  // Input channels that share a scale: a power of two from 16 to 256.
  std::int64_t block = 32;
  // False: with zero points.
  bool is_symmetric = true;
  // What stays float: modules as in a recipe's rules, or nodes as the model builder names them
  // ("/model/layers.0/mlp/up_proj/MatMul").
  std::vector<std::string> excluded = {};
  // Of the scales, F32 or F16.
  DType scales = DType::kF32;
};

class OnnxRounding : public LinearRounding {
 public:
  // Throws kInvalidArgument for an exclusion that matches no Linear of the graph.
  OnnxRounding(OnnxRoundingSettings settings, const Graph& graph, ThreadPool& pool);

  // False for what is excluded, and where K is no multiple of the block.
  bool applies_to(const Node& linear) const override;
  GroupCodes round(const Node& linear) const override;
  // Float Linears that stay so though they are not excluded, by name.
  std::vector<std::string> left_float(const Graph& graph) const;

 private:
  bool is_excluded(const Node& linear) const;

  OnnxRoundingSettings settings_;
  ThreadPool& pool_;
};

}  // namespace tandem
