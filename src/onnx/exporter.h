// Writes a decoder's graph as ONNX, node by node; export_model() is its only user. Which operator becomes
// what is the table in exporter.cc; attention and the products before it are in exporter_attention.cc.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "graph/uses.h"
#include "onnx/attention_plan.h"
#include "onnx/export_model.h"
#include "onnx/model_writer.h"
#include "onnx/rotary_caches.h"

namespace tandem {

class Exporter {
 public:
  Exporter(const fs::path& folder, const Graph& graph, const ModelInfo& info,
           const OnnxOptions& options, Observer& observer);

  OnnxReport run();

  // Null for an operator without a form in ONNX.
  using Method = void (Exporter::*)(NodeId);
  static Method method_of(Op op) noexcept;

 private:
  // A Linear's weight as it is written.
  struct Product {
    Weight weight;
    // Codes made from float values here, not those of the checkpoint.
    bool is_rounded = false;
  };

  void embedding(NodeId id);
  void linear(NodeId id);
  void rms_norm(NodeId id);
  void rotary_angles(NodeId id);
  void rotary_embedding(NodeId id);
  void attention(NodeId id);
  void silu(NodeId id);
  void gelu(NodeId id);
  void mul(NodeId id);
  void add(NodeId id);
  void softcap(NodeId id);
  void hadamard(NodeId id);
  void quantize(NodeId id);
  void dequantize(NodeId id);
  void shadow_linear(NodeId id);
  void select_rows(NodeId id);

  void add_inputs();
  void add_outputs();
  // "0.key", … in the order of inputs and outputs.
  std::vector<std::string> cache_parts() const;
  void add_mask_nodes();

  // What ONNX calls a value. A sum that was put off for a norm to take is written now.
  const std::string& name_of(ValueId value);
  void set_name(ValueId value, std::string name);
  // Whether a sum was put off that stands behind `value`; returns the Add.
  const Node* pending_sum(ValueId value) const;
  // The value in front of SelectRows, which ONNX does not have.
  ValueId before_selection(ValueId value) const;
  // The nodes that read a value, also behind SelectRows.
  std::vector<NodeId> readers_of(ValueId value) const;
  // Whether it is what the model gives.
  bool is_logits(ValueId value) const { return value == graph_.outputs().front(); }
  std::int64_t width_of(ValueId value) const { return graph_.value(value).width; }

  // Of that many columns, with a row for each token.
  OnnxValue activation(std::string name, std::int64_t width) const;
  // Adds a node with one such output and returns its name: "NAME/output_0" unless given.
  std::string add_node(const std::string& op, const std::string& name,
                       std::vector<std::string> inputs, std::int64_t width,
                       std::vector<OnnxAttribute> attributes = {}, const char* domain = "",
                       const std::string& output = {});
  // A vector as an initializer of the model's type; returns its name.
  std::string add_vector(const std::string& name, std::span<const float> values);
  // One norm over the last dimension.
  std::vector<OnnxAttribute> norm_attributes(float epsilon) const;
  void head_norm(NodeId id);
  // The orthonormal Hadamard matrix as an initializer; returns its name.
  std::string hadamard_matrix(std::int64_t order);

  bool is_rounded(const Node& linear) const;
  Product product_of(NodeId linear) const;
  // A weight in codes that is written, and the product that will read it.
  struct NBitsTensors {
    std::string node;
    std::string output;
    // Codes, scales, and zero points if there are any.
    std::vector<std::string> names;
    std::int64_t bits = 0;
    std::int64_t block = 0;
    std::int64_t n = 0;
    std::int64_t k = 0;
    // Where the product is written later: its Linear.
    NodeId linear = -1;
  };
  // Scales and zero points are vectors or, `in_rows`, matrices.
  NBitsTensors write_codes(const std::string& path, const std::string& module,
                           const Product& product, bool in_rows = false);
  std::string add_nbits(const NBitsTensors& tensors, const std::string& input,
                        const std::string& output);
  // Writes the weight and the product of a module; returns the output, which is `output` or else named
  // after the node.
  std::string add_product(const std::string& path, const std::string& module,
                          const Product& product, const std::string& input,
                          const std::string& output);
  // QuantizeLinear and DequantizeLinear with that scale; returns the latter's output.
  std::string add_pair(const std::string& path, const std::string& input, float step,
                       std::int64_t width);
  // The product of dequantized codes with dequantized weights.
  std::string add_int8_product(const std::string& path, const ChannelCodes& weight,
                               const std::string& input);
  std::string add_bias(const std::string& path, std::span<const float> bias,
                       const std::string& input, const std::string& output);
  // Writes q, k and v as one product, if their weights allow it.
  bool add_packed(const AttentionPlan& plan);
  // The head if its values are those of the embedding, and written as such; else null.
  const Node* tied_head(const Tensor& table) const;
  // The rows of the embedding as a value: its own, or those of a tied head.
  std::string embedding_rows(const Node& node, const Tensor& table);
  // Writes the head's codes and looks rows up in them.
  std::string add_shared_lookup(const std::string& path, const Tensor& table);

  bool rotates_inside(const AttentionPlan& plan, std::int64_t head_dim) const;
  // Whether attention can read q, k and v from one value.
  bool takes_packed(const AttentionPlan& plan) const;

  const Graph& graph_;
  const ModelInfo& info_;
  const OnnxOptions& options_;
  Observer& observer_;
  const Uses uses_;
  const AttentionPlans plans_;
  ModelWriter writer_;
  // By value; empty until it is written.
  std::vector<std::string> names_;
  std::set<ValueId> pending_sums_;
  // Rotations that attention does.
  std::set<NodeId> inner_rotations_;
  // Linears that are part of one product with others.
  std::set<NodeId> packed_;
  // Orders of Hadamard matrices that are written.
  std::set<std::int64_t> hadamards_;
  RotaryCaches caches_;
  // The head's codes, if they are written with the embedding.
  std::optional<NBitsTensors> shared_head_;
  OnnxReport report_;
};

}  // namespace tandem
