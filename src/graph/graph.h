// The model as a list of typed operators in the order of execution: one representation, from import
// to execution.
//
// A value is a matrix with one row per member of its row space (tokens, selected rows); a node reads
// values that earlier nodes wrote and writes one or more. Operators are those of the exported ONNX,
// so that import and export are one to one; ops.h has the table of them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "graph/attributes.h"

namespace tandem {

enum class Op : std::uint8_t {
  // ids -> rows of a table
  kEmbedding,
  // x · wᵀ + bias; of int8 codes: int32 sums
  kLinear,
  kRmsNorm,
  // ids -> cosines and sines of their positions
  kRotaryAngles,
  // queries or keys, angles -> rotated
  kRotaryEmbedding,
  // q, k, v -> context; appends k and v to the cache of its layer
  kGroupQueryAttention,
  kSilu,
  // The approximation with tanh.
  kGelu,
  kMul,
  kAdd,
  // cap * tanh(x / cap)
  kSoftcap,
  // x, row numbers -> those rows of x
  kSelectRows,
  // x -> int8 codes with one scale for all
  kQuantize,
  // x -> int16 codes with one scale for all, at most kMaxInt16Code
  kQuantizeInt16,
  // x -> int8 codes, and the scale of each row
  kDynamicQuantize,
  // codes or sums (, scale of each row) -> float
  kDequantize,
  // int32 sums -> int8 or int16 codes, by a shift
  kRequantize,
  // Blocks of each row times an orthonormal matrix, a Hadamard matrix as a rule.
  kHadamard,
  // x -> what int8 codes of a few of its channels clip, times the float weights of those
  kShadowLinear,
};
// "GroupQueryAttention".
std::string_view to_string(Op op) noexcept;

using ValueId = std::int32_t;
using NodeId = std::int32_t;
// Index into Graph::row_spaces().
using RowSpaceId = std::int32_t;

// Every graph has this one: a row per token of the run.
inline constexpr RowSpaceId kTokens = 0;
inline constexpr const char* kTokensName = "tokens";

// How codes stand for numbers: x = code * scale, symmetric.
struct Quantization {
  // F32 [1], or one for each column.
  Tensor scales;
  // Of the sums of codes that have a scale for each row: x is that times the scale of the row, which
  // comes as a value of its own.
  bool times_row_scale = false;
};

struct Value {
  std::string name;
  DType dtype = DType::kF32;
  RowSpaceId rows = kTokens;
  // Columns.
  std::int64_t width = 0;
  // Of integers; not of codes whose only scale is that of their row.
  std::optional<Quantization> quantization = {};
};

struct Node {
  Op op;
  // The module's name in the checkpoint, such as "model.layers.0.mlp.up_proj".
  std::string name;
  // Decoder block, -1 outside.
  std::int32_t layer = -1;
  std::vector<ValueId> inputs;
  std::vector<ValueId> outputs;
  Attributes attributes;

  // Of an operator with one output.
  ValueId output() const { return outputs.front(); }
  template <typename T>
  const T& as() const {
    return std::get<T>(attributes);
  }
};

class Graph {
 public:
  const std::vector<std::string>& row_spaces() const noexcept { return row_spaces_; }
  const std::vector<Value>& values() const noexcept { return values_; }
  const std::vector<Node>& nodes() const noexcept { return nodes_; }
  const std::vector<ValueId>& inputs() const noexcept { return inputs_; }
  const std::vector<ValueId>& outputs() const noexcept { return outputs_; }
  const Value& value(ValueId id) const { return values_[static_cast<std::size_t>(id)]; }
  const Node& node(NodeId id) const { return nodes_[static_cast<std::size_t>(id)]; }

  // The space of this name, added if there is none yet.
  RowSpaceId row_space(std::string_view name);
  // Throws kFormat for a width below 1, an unknown row space, or scales that do not fit.
  ValueId add_input(Value value);
  // Appends a node; infers its outputs from inputs and attributes. Throws kFormat
  // ("[linear] model.layers.0.mlp.up_proj: expected K = 2048, got 1024").
  const std::vector<ValueId>& add_node(Op op, std::string name, std::int32_t layer,
                                       std::vector<ValueId> inputs, Attributes attributes = {});
  // The same for an operator with one output, which it returns.
  ValueId add(Op op, std::string name, std::int32_t layer, std::vector<ValueId> inputs,
              Attributes attributes = {});
  void set_outputs(std::vector<ValueId> outputs) { outputs_ = std::move(outputs); }

  // Decoder blocks: highest layer of a node + 1.
  std::int32_t layers() const noexcept;
  // Whether every attention has the scales of an int8 cache, and there is one.
  bool has_kv_scales() const noexcept;

 private:
  std::vector<std::string> row_spaces_ = {kTokensName};
  std::vector<Value> values_;
  std::vector<Node> nodes_;
  std::vector<ValueId> inputs_;
  std::vector<ValueId> outputs_;
};

// Checks everything that add_node() promises, and that the graph is whole: inputs defined before
// use, every value written once, outputs present. Throws kFormat naming the node.
void verify(const Graph& graph);
// Of a decoder: besides, exactly one attention node in each layer, so that each layer's cache has
// one writer.
void verify_decoder(const Graph& graph);

// One line per node: "%12 = Linear(%11) model.layers.0.mlp.up_proj int4 g128 [768, 256] -> [tokens,
// 768]"; what is not float with its type, " -> I8 [tokens, 768]".
std::string dump(const Graph& graph);

}  // namespace tandem
