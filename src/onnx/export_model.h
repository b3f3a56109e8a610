// From the graph of a decoder to model.onnx, in the words of ONNX Runtime GenAI's model builder: its
// operators, the names of its nodes and tensors, its inputs and outputs.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/observer.h"
#include "graph/graph.h"
#include "graph/model_info.h"
#include "onnx/dialect.h"
#include "onnx/model_writer.h"

namespace tandem {

// What a graph looks like on one of ONNX Runtime's execution providers.
struct OnnxProvider {
  // As on the builder's command line.
  std::string_view name;
  // GroupQueryAttention rotates queries and keys, and there is no input position_ids.
  bool rotates_in_attention = true;
  // q, k and v are one product.
  bool packs_qkv = true;
  // Its graphs may have an If.
  bool has_if = true;
  // Of MatMulNBits: 4 quantizes activations to int8, block by block, which is the fast way on CPUs;
  // 0 leaves it to the provider.
  std::int64_t accuracy_level = 0;
};
std::span<const OnnxProvider> onnx_providers() noexcept;
// Throws kInvalidArgument, listing the names, for an unknown one.
const OnnxProvider& find_onnx_provider(std::string_view name);

// Decides which float Linears become codes, and makes those when they are written.
class LinearRounding {
 public:
  virtual ~LinearRounding() = default;
  virtual bool applies_to(const Node& linear) const = 0;
  virtual GroupCodes round(const Node& linear) const = 0;
};

struct OnnxOptions {
  OnnxProvider provider = onnx_providers().front();
  // Of activations, the cache and float weights: F32 or F16.
  OnnxType type = OnnxType::kFloat;
  std::string filename = "model.onnx";
  OnnxDialect dialect = onnx_dialects().front();
  // The embedding of a tied head is looked up in the head's codes, instead of rows of its own. Throws
  // kInvalidArgument for a head that is not tied or not in codes.
  bool shared_embeddings = false;
  // Null: float weights stay float.
  const LinearRounding* rounding = nullptr;
};

struct OnnxReport {
  // Whether the model has the input position_ids.
  bool position_ids = false;
  // In tokens. Less than the model's where ONNX has no form for what comes after.
  std::int64_t context_length = 0;
  // Products by what their weights are.
  std::int64_t float_linears = 0;
  std::int64_t code_linears = 0;
  std::int64_t int8_linears = 0;
};

// Throws kUnsupported for a graph that cannot be written with activations of that type, listing all
// operators that have no form.
void check_exportable(const Graph& graph, OnnxType type);

// Writes `folder`/`options.filename` and its data file. Weights are read, and float ones rounded, one
// after the other. Throws kUnsupported naming the module for a weight that has no form, and kCancelled
// when the observer says so.
OnnxReport export_model(const fs::path& folder, const Graph& graph, const ModelInfo& info,
                        const OnnxOptions& options, Observer& observer = silent());

}  // namespace tandem
