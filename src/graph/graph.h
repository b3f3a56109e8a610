// The model as a list of typed operators in the order of execution: one representation, from import
// to execution.
//
// A value is a matrix of float32 (token ids: int32) with one row per token; a node reads values
// that earlier nodes wrote. Operators are those of the exported ONNX, so that import and export are
// one to one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "tensor/tensor.h"
#include "tensor/weight.h"

namespace tandem {

enum class Op : std::uint8_t {
  kEmbedding,  // ids -> rows of a table
  kLinear,     // x · wᵀ + bias
  kRmsNorm,
  kRotaryEmbedding,      // of queries or keys, by the token's position
  kGroupQueryAttention,  // q, k, v -> context; appends k and v to the cache of its layer
  kSilu,
  kGelu,  // the approximation with tanh
  kMul,
  kAdd,
  kSoftcap,     // cap * tanh(x / cap)
  kSelectRows,  // keeps the rows whose logits are wanted
};
std::string_view to_string(Op op) noexcept;

using ValueId = std::int32_t;
using NodeId = std::int32_t;

enum class Rows : std::uint8_t {
  kTokens,
  kSelected
};  // one row per token, or per wanted logit row

struct Value {
  std::string name;
  DType dtype = DType::kF32;
  Rows rows = Rows::kTokens;
  std::int64_t width = 0;  // columns
};

struct EmbeddingAttributes {
  Tensor table;     // [vocabulary, hidden], any float type
  float scale = 1;  // multiplies the rows
};
struct LinearAttributes {
  Weight weight;
  Tensor bias;  // F32 [n], or empty
};
struct RmsNormAttributes {
  Tensor weight;  // F32 [width / heads]
  float epsilon = 0;
  std::int64_t heads = 1;  // parts of a row, each with a norm of its own
};
// LongRoPE and dynamic NTK: once a sequence is longer than the original context, all of its
// positions turn by other frequencies, and every key in the cache is out of date (graph/rotary.h).
struct RotaryExtension {
  std::int64_t original_context = 0;       // tokens; 0: the same frequencies at any length
  std::vector<float> inverse_frequencies;  // LongRoPE: of longer sequences
  float theta = 0;                         // dynamic NTK: the base, which grows with the length
  float factor = 0;
};
struct RotaryAttributes {
  std::int64_t heads = 0;
  std::int64_t head_dim = 0;
  std::vector<float> inverse_frequencies;  // [rotary_dim / 2], scaling applied; angle = position *
                                           // inverse frequency
  float attention_factor = 1;              // multiplies cos and sin (YaRN, LongRoPE)
  RotaryExtension extension;               // of sequences longer than in training
};
struct SoftcapAttributes {
  float cap = 0;  // above 0
};
struct AttentionAttributes {
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  float scale = 0;
  std::int64_t window = 0;  // sliding window in tokens; 0: none
  float softcap = 0;        // 0: none
};
using Attributes =
    std::variant<std::monostate, EmbeddingAttributes, LinearAttributes, RmsNormAttributes,
                 RotaryAttributes, SoftcapAttributes, AttentionAttributes>;

struct Node {
  Op op;
  std::string name;  // the module's name in the checkpoint, such as "model.layers.0.mlp.up_proj"
  std::int32_t layer = -1;  // decoder block, -1 outside
  std::vector<ValueId> inputs;
  ValueId output = -1;
  Attributes attributes;

  template <typename T>
  const T& as() const {
    return std::get<T>(attributes);
  }
};

class Graph {
 public:
  ValueId input = -1;   // token ids, int32
  ValueId output = -1;  // logits [selected rows, vocabulary]

  const std::vector<Value>& values() const noexcept { return values_; }
  const std::vector<Node>& nodes() const noexcept { return nodes_; }
  const Value& value(ValueId id) const { return values_[static_cast<std::size_t>(id)]; }
  const Node& node(NodeId id) const { return nodes_[static_cast<std::size_t>(id)]; }

  ValueId add_input(std::string name);
  // Appends a node; infers the output's shape from inputs and attributes. Throws kFormat
  // ("[linear] model.layers.0.mlp.up_proj: expected K = 2048, got 1024").
  ValueId add(Op op, std::string name, std::int32_t layer, std::vector<ValueId> inputs,
              Attributes attributes = {});

  std::int32_t layers() const noexcept;  // decoder blocks: highest layer of a node + 1

 private:
  std::vector<Value> values_;
  std::vector<Node> nodes_;
};

// Checks everything that add() promises, and that the graph is whole: inputs defined before use,
// attributes of the operator's type, one attention node per layer, output present. Throws kFormat
// naming the node.
void verify(const Graph& graph);

// One line per node: "%12 = Linear(%11) model.layers.0.mlp.up_proj int4 g128 [768, 256] -> [tokens,
// 768]".
std::string dump(const Graph& graph);

}  // namespace tandem
