// The table of operators, and all of them but attention.
#include "onnx/exporter.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "onnx/onnx_names.h"
#include "onnx/onnx_weights.h"

namespace tandem {
namespace {

// Beyond that order, two products with smaller matrices take less.
constexpr std::int64_t kLargestHadamard = 32;

}  // namespace

Exporter::Method Exporter::method_of(Op op) noexcept {
  using Row = std::pair<Op, Method>;
  static constexpr std::array kMethods = {
      // Gather (, Mul)
      Row{Op::kEmbedding, &Exporter::embedding},
      // MatMul, MatMulNBits, or MatMul after a DequantizeLinear (, Add); q, k and v as one
      Row{Op::kLinear, &Exporter::linear},
      // SimplifiedLayerNormalization, with a sum in front SkipSimplifiedLayerNormalization; of heads
      // between two Reshapes
      Row{Op::kRmsNorm, &Exporter::rms_norm},
      // initializers cos_cache and sin_cache, or an If that chooses between two of each
      Row{Op::kRotaryAngles, &Exporter::rotary_angles},
      // RotaryEmbedding, or nothing where attention rotates
      Row{Op::kRotaryEmbedding, &Exporter::rotary_embedding},
      // GroupQueryAttention
      Row{Op::kGroupQueryAttention, &Exporter::attention},
      // Sigmoid, Mul
      Row{Op::kSilu, &Exporter::silu},
      // Gelu
      Row{Op::kGelu, &Exporter::gelu},
      // Mul
      Row{Op::kMul, &Exporter::mul},
      // Add, or nothing where a norm adds
      Row{Op::kAdd, &Exporter::add},
      // Div, Tanh, Mul
      Row{Op::kSoftcap, &Exporter::softcap},
      // QuantizeLinear, DequantizeLinear
      Row{Op::kQuantize, &Exporter::quantize},
      // nothing, or the Add of the bias
      Row{Op::kDequantize, &Exporter::dequantize},
      // Gather, Sub, Abs, Greater, Where, MatMul
      Row{Op::kShadowLinear, &Exporter::shadow_linear},
      // Reshape, MatMul (, MatMul), Reshape
      Row{Op::kHadamard, &Exporter::hadamard},
      // nothing: ONNX gives the logits of all rows
      Row{Op::kSelectRows, &Exporter::select_rows},
  };
  const auto row = std::ranges::find(kMethods, op, &Row::first);
  return row == kMethods.end() ? nullptr : row->second;
}

Exporter::Exporter(const fs::path& folder, const Graph& graph, const ModelInfo& info,
                   const OnnxOptions& options, Observer& observer)
    : graph_(graph),
      info_(info),
      options_(options),
      observer_(observer),
      uses_(graph),
      plans_(graph),
      writer_(folder, options.filename, options.dialect),
      names_(graph.values().size()) {
  report_.context_length = info.context_length;
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    if (node.op == Op::kRotaryAngles)
      report_.context_length =
          rotary_context(node.as<RotaryAnglesAttributes>(), report_.context_length);
    if (node.op != Op::kGroupQueryAttention) continue;
    const AttentionPlan& plan = plans_.of_attention(id);
    if (rotates_inside(plan, node.as<AttentionAttributes>().head_dim))
      inner_rotations_.insert({plan.q_rotary, plan.k_rotary});
  }
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id)
    report_.position_ids |=
        graph.node(id).op == Op::kRotaryEmbedding && !inner_rotations_.contains(id);
}

OnnxReport Exporter::run() {
  add_inputs();
  add_mask_nodes();
  {
    Task task(observer_, "build", static_cast<std::int64_t>(graph_.nodes().size()), "operators");
    for (NodeId id = 0; id < static_cast<NodeId>(graph_.nodes().size()); ++id) {
      (this->*method_of(graph_.node(id).op))(id);
      task.advance();
    }
  }
  add_outputs();
  writer_.finish();
  return report_;
}

void Exporter::add_inputs() {
  writer_.add_input({"input_ids", OnnxType::kInt64, {"batch_size", "sequence_length"}});
  writer_.add_input({"attention_mask", OnnxType::kInt64, {"batch_size", "total_sequence_length"}});
  if (report_.position_ids)
    writer_.add_input({"position_ids", OnnxType::kInt64, {"batch_size", "sequence_length"}});
  for (const std::string& part : cache_parts())
    writer_.add_input({"past_key_values." + part,
                       options_.type,
                       {"batch_size", info_.kv_heads, "past_sequence_length", info_.head_dim}});
}

void Exporter::add_outputs() {
  writer_.add_output(activation("logits", width_of(graph_.outputs().front())));
  for (const std::string& part : cache_parts())
    writer_.add_output({"present." + part,
                        options_.type,
                        {"batch_size", info_.kv_heads, "total_sequence_length", info_.head_dim}});
}

std::vector<std::string> Exporter::cache_parts() const {
  std::vector<std::string> keys, values, both;
  for (std::int64_t layer = 0; layer < info_.layers; ++layer) {
    keys.push_back(fmt::format("{}.key", layer));
    values.push_back(fmt::format("{}.value", layer));
    both.insert(both.end(), {keys.back(), values.back()});
  }
  if (options_.dialect.interleaves_cache) return both;
  keys.insert(keys.end(), values.begin(), values.end());
  return keys;
}

// What attention wants to know of the mask: the last position of each row that counts, and how many
// there are.
void Exporter::add_mask_nodes() {
  const std::string base = kMaskNodes;
  const auto add_one = [&](const char* op, const std::string& name, std::vector<std::string> inputs,
                           OnnxValue output, std::vector<OnnxAttribute> attributes = {}) {
    output.name = name + "/output_0";
    writer_.add_node({op, name, std::move(inputs), {output}, std::move(attributes)});
    return output.name;
  };
  const OnnxAttribute to_int32{"to", static_cast<std::int64_t>(OnnxType::kInt32)};
  const bool keeps_rank = options_.dialect.keeps_mask_rank;
  std::vector<OnnxDim> row_shape = {"batch_size"};
  if (keeps_rank) row_shape.emplace_back(std::int64_t{1});
  const OnnxValue rows{"", OnnxType::kInt64, row_shape};
  const std::string one = writer_.constant(std::vector<std::int64_t>{1});
  const std::string sum = add_one("ReduceSum", base + "/ReduceSum", {"attention_mask", one}, rows,
                                  {{"keepdims", std::int64_t{keeps_rank}}});
  const std::string last = add_one("Sub", base + "/Sub", {sum, one}, rows);
  add_one("Cast", base + "/Sub/Cast", {last}, {"", OnnxType::kInt32, row_shape}, {to_int32});
  const std::string shape =
      add_one("Shape", base + "/Shape", {"attention_mask"}, {"", OnnxType::kInt64, {2}});
  const std::string total =
      add_one("Gather", base + "/Gather", {shape, writer_.constant(std::int64_t{1})},
              {"", OnnxType::kInt64, {}}, {{"axis", std::int64_t{0}}});
  add_one("Cast", base + "/Gather/Cast", {total}, {"", OnnxType::kInt32, {}}, {to_int32});
}

const std::string& Exporter::name_of(ValueId value) {
  const ValueId source = before_selection(value);
  std::string& name = names_[static_cast<std::size_t>(source)];
  if (name.empty() && pending_sums_.erase(source) > 0) {
    const Node& sum = graph_.node(uses_.producer(source));
    name = add_node("Add", onnx_path(sum.name) + "/Add",
                    {name_of(sum.inputs[0]), name_of(sum.inputs[1])}, width_of(source));
  }
  return name;
}

void Exporter::set_name(ValueId value, std::string name) {
  names_[static_cast<std::size_t>(value)] = std::move(name);
}

const Node* Exporter::pending_sum(ValueId value) const {
  const ValueId source = before_selection(value);
  return pending_sums_.contains(source) ? &graph_.node(uses_.producer(source)) : nullptr;
}

ValueId Exporter::before_selection(ValueId value) const {
  for (NodeId producer; (producer = uses_.producer(value)) >= 0;) {
    const Node& node = graph_.node(producer);
    if (node.op != Op::kSelectRows) break;
    value = node.inputs[0];
  }
  return value;
}

std::vector<NodeId> Exporter::readers_of(ValueId value) const {
  std::vector<NodeId> readers;
  for (const NodeId reader : uses_.readers(value)) {
    const Node& node = graph_.node(reader);
    const std::vector<NodeId> more =
        node.op == Op::kSelectRows ? readers_of(node.output()) : std::vector{reader};
    readers.insert(readers.end(), more.begin(), more.end());
  }
  return readers;
}

OnnxValue Exporter::activation(std::string name, std::int64_t width) const {
  return {std::move(name), options_.type, {"batch_size", "sequence_length", width}};
}

std::string Exporter::add_node(const std::string& op, const std::string& name,
                               std::vector<std::string> inputs, std::int64_t width,
                               std::vector<OnnxAttribute> attributes, const char* domain,
                               const std::string& output) {
  std::string given = output.empty() ? name + "/output_0" : output;
  writer_.add_node(
      {op, name, std::move(inputs), {activation(given, width)}, std::move(attributes), domain});
  return given;
}

std::string Exporter::add_vector(const std::string& name, std::span<const float> values) {
  writer_.add_initializer(name, options_.type, {static_cast<std::int64_t>(values.size())},
                          [&](const ByteSink& sink) { write_values(values, options_.type, sink); });
  return name;
}

void Exporter::embedding(NodeId id) {
  const Node& node = graph_.node(id);
  const auto& attributes = node.as<EmbeddingAttributes>();
  const std::string path = onnx_path(node.name);
  const std::int64_t width = width_of(node.output());
  std::string x = options_.shared_embeddings
                      ? add_shared_lookup(path, attributes.table)
                      : add_node("Gather", path + "/Gather",
                                 {embedding_rows(node, attributes.table), "input_ids"}, width);
  if (attributes.scale != 1)
    x = add_node("Mul", path + "/Mul", {x, writer_.constant(attributes.scale, options_.type)},
                 width);
  set_name(node.output(), std::move(x));
}

std::string Exporter::embedding_rows(const Node& node, const Tensor& table) {
  const std::vector<std::int64_t> shape = {table.dim(0), table.dim(1)};
  if (const Node* head = tied_head(table)) {
    const std::string transpose = onnx_path(node.name) + "/Transpose";
    const std::string rows = transpose + "/output_0";
    writer_.add_node({.op = "Transpose",
                      .name = transpose,
                      .inputs = {onnx_tensor(onnx_path(head->name)) + ".MatMul.weight"},
                      .outputs = {{rows, options_.type, {shape.begin(), shape.end()}}},
                      .attributes = {{"perm", std::vector<std::int64_t>{1, 0}}}});
    return rows;
  }
  std::string rows = node.name + ".weight";
  writer_.add_initializer(rows, options_.type, shape, [&](const ByteSink& sink) {
    write_rows(*stored_rows(table), options_.type, sink);
  });
  table.release();
  return rows;
}

std::vector<OnnxAttribute> Exporter::norm_attributes(float epsilon) const {
  return {{"epsilon", epsilon}, {"axis", std::int64_t{-1}}, {"stash_type", std::int64_t{1}}};
}

void Exporter::rms_norm(NodeId id) {
  const Node& node = graph_.node(id);
  const auto& attributes = node.as<RmsNormAttributes>();
  if (attributes.heads > 1) return head_norm(id);
  const std::string path = node.layer < 0
                               ? fmt::format("/model/layers.{}/final_norm_layernorm", info_.layers)
                               : onnx_path(node.name);
  const std::string weight =
      add_vector(onnx_tensor(path) + ".weight", attributes.weight.as<float>());
  const std::int64_t width = width_of(node.output());
  const std::string output = path + "/output_0";
  const ValueId input = before_selection(node.inputs[0]);
  if (const Node* sum = pending_sum(input)) {
    OnnxNode skip{.op = "SkipSimplifiedLayerNormalization",
                  .name = path + "/SkipLayerNorm",
                  .inputs = {name_of(sum->inputs[0]), name_of(sum->inputs[1]), weight},
                  .outputs = {activation(output, width)},
                  .attributes = {{"epsilon", attributes.epsilon}},
                  .domain = "com.microsoft"};
    pending_sums_.erase(input);
    if (readers_of(input).size() > 1) {
      const std::string total = path + "/output_3";
      // Mean and variance, which nobody reads, come before it.
      skip.outputs.insert(skip.outputs.end(), {OnnxValue{}, OnnxValue{}, activation(total, width)});
      set_name(input, total);
    }
    writer_.add_node(skip);
  } else {
    add_node("SimplifiedLayerNormalization", path + "/LayerNorm", {name_of(input), weight}, width,
             norm_attributes(attributes.epsilon), "", output);
  }
  set_name(node.output(), output);
}

void Exporter::silu(NodeId id) {
  const Node& node = graph_.node(id);
  const std::string path = onnx_path(node.name);
  const std::string x = name_of(node.inputs[0]);
  const std::int64_t width = width_of(node.output());
  const std::string gate = add_node("Sigmoid", path + "/Sigmoid", {x}, width);
  set_name(node.output(), add_node("Mul", path + "/Mul", {x, gate}, width));
}

void Exporter::gelu(NodeId id) {
  const Node& node = graph_.node(id);
  const std::string name = onnx_path(node.name) + "/FastGelu";
  const std::string x = name_of(node.inputs[0]);
  const std::int64_t width = width_of(node.output());
  set_name(node.output(),
           options_.dialect.has_gelu
               ? add_node("Gelu", name, {x}, width, {{"approximate", std::string("tanh")}})
               : add_node("FastGelu", name, {x}, width, {}, "com.microsoft"));
}

void Exporter::mul(NodeId id) {
  const Node& node = graph_.node(id);
  set_name(node.output(),
           add_node("Mul", onnx_parent(onnx_path(node.name)) + "/Mul",
                    {name_of(node.inputs[0]), name_of(node.inputs[1])}, width_of(node.output())));
}

void Exporter::add(NodeId id) {
  const Node& node = graph_.node(id);
  pending_sums_.insert(node.output());
  const bool is_normed = std::ranges::any_of(readers_of(node.output()), [&](NodeId reader) {
    const Node& norm = graph_.node(reader);
    return norm.op == Op::kRmsNorm && norm.as<RmsNormAttributes>().heads == 1;
  });
  if (!is_normed) name_of(node.output());
}

void Exporter::softcap(NodeId id) {
  const Node& node = graph_.node(id);
  const std::string path = onnx_parent(onnx_path(node.name)) + "/softcap";
  const std::string cap = writer_.constant(node.as<SoftcapAttributes>().cap, options_.type);
  const std::int64_t width = width_of(node.output());
  std::string x = add_node("Div", path + "/Div", {name_of(node.inputs[0]), cap}, width);
  x = add_node("Tanh", path + "/Tanh", {x}, width);
  set_name(node.output(), add_node("Mul", path + "/Mul", {x, cap}, width, {}, "",
                                   is_logits(node.output()) ? "logits" : ""));
}

// A block's matrix is the Kronecker product of two small ones: with the block as a matrix X, H_a X H_b.
void Exporter::hadamard(NodeId id) {
  const Node& node = graph_.node(id);
  const std::int64_t block = node.as<HadamardAttributes>().block;
  const std::int64_t width = width_of(node.output());
  std::int64_t columns = block, rows = 1;
  while (columns > kLargestHadamard && rows < columns) {
    columns /= 2;
    rows *= 2;
  }
  const std::string path = onnx_path(node.name);
  const std::vector<OnnxDim> shape = {"batch_size", "sequence_length", width / block, rows,
                                      columns};
  const auto add_one = [&](const char* op, const std::string& name,
                           std::vector<std::string> inputs) {
    writer_.add_node({op, name, std::move(inputs), {{name + "/output_0", options_.type, shape}}});
    return name + "/output_0";
  };
  std::string x =
      add_one("Reshape", path + "/Reshape_1",
              {name_of(node.inputs[0]), writer_.constant({0, 0, width / block, rows, columns})});
  x = add_one("MatMul", path + "/MatMul_1", {x, hadamard_matrix(columns)});
  if (rows > 1) x = add_one("MatMul", path + "/MatMul_2", {hadamard_matrix(rows), x});
  set_name(node.output(),
           add_node("Reshape", path + "/Reshape_2", {x, writer_.constant({0, 0, width})}, width));
}

std::string Exporter::hadamard_matrix(std::int64_t order) {
  std::string name = fmt::format("model.hadamard_{}", order);
  if (!hadamards_.insert(order).second) return name;
  const auto entry = 1 / std::sqrt(static_cast<float>(order));
  std::vector<float> values;
  for (std::int64_t i = 0; i < order; ++i)
    for (std::int64_t j = 0; j < order; ++j)
      values.push_back(std::popcount(static_cast<std::uint64_t>(i & j)) % 2 == 0 ? entry : -entry);
  writer_.add_initializer(name, options_.type, {order, order},
                          [&](const ByteSink& sink) { write_values(values, options_.type, sink); });
  return name;
}

// Values are looked up in front of it.
void Exporter::select_rows(NodeId /*id*/) {}

}  // namespace tandem
