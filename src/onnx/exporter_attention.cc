// Products with weights, rotations and attention.
#include <algorithm>
#include <array>
#include <functional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "onnx/exporter.h"
#include "onnx/onnx_names.h"
#include "onnx/onnx_weights.h"

namespace tandem {
namespace {

constexpr const char* kMicrosoft = "com.microsoft";
// ONNX Runtime's attention rotates heads, and parts of heads, of such sizes.
constexpr std::int64_t kRotatedMultiple = 16;

std::span<const float> bias_of(const Node& linear) {
  return linear.as<LinearAttributes>().bias.as<float>();
}

bool is_zero(std::span<const float> values) {
  return std::ranges::all_of(values, [](float value) { return value == 0; });
}

}  // namespace

bool Exporter::rotates_inside(const AttentionPlan& plan, std::int64_t head_dim) const {
  return options_.provider.rotates_in_attention && plan.rotates() &&
         head_dim % kRotatedMultiple == 0 &&
         width_of(graph_.node(plan.q_rotary).inputs[1]) % kRotatedMultiple == 0;
}

bool Exporter::takes_packed(const AttentionPlan& plan) const {
  return plan.is_plain && (!plan.rotates() || inner_rotations_.contains(plan.q_rotary));
}

bool Exporter::is_rounded(const Node& linear) const {
  return options_.rounding != nullptr &&
         std::holds_alternative<FloatWeight>(linear.as<LinearAttributes>().weight) &&
         options_.rounding->applies_to(linear);
}

Exporter::Product Exporter::product_of(NodeId linear) const {
  const Node& node = graph_.node(linear);
  if (is_rounded(node)) return {options_.rounding->round(node), true};
  return {node.as<LinearAttributes>().weight};
}

std::string Exporter::add_product(const std::string& path, const std::string& module,
                                  const Product& product, const std::string& input,
                                  const std::string& output) {
  const std::int64_t n = output_channels(product.weight);
  const std::string matmul = path + "/MatMul";
  if (const auto* values = std::get_if<FloatWeight>(&product.weight)) {
    const std::string weight = onnx_tensor(matmul) + ".weight";
    writer_.add_initializer(
        weight, options_.type, {values->rows->columns(), n},
        [&](const ByteSink& sink) { write_transposed(*values->rows, options_.type, sink); });
    values->rows->release();
    ++report_.float_linears;
    return add_node("MatMul", matmul, {input, weight}, n, {}, "", output);
  }
  return add_nbits(write_codes(path, module, product), input, output);
}

Exporter::NBitsTensors Exporter::write_codes(const std::string& path, const std::string& module,
                                             const Product& product, bool in_rows) {
  const NBitsWeight weight(std::get<GroupCodes>(product.weight), module);
  const GroupCodes& codes = weight.codes();
  // What the builder rounds itself it calls by other names than what it reads.
  const bool is_rounded = product.is_rounded;
  const std::string matmul = path + "/MatMul";
  NBitsTensors written{
      .node = is_rounded ? fmt::format("{}_Q{}", matmul, codes.bits) : matmul + "NBits",
      .bits = codes.bits,
      .block = weight.block(),
      .n = codes.n,
      .k = codes.k};
  written.output = (is_rounded ? matmul : written.node) + "/output_0";
  const std::string tensor =
      is_rounded ? onnx_tensor(matmul) + ".weight_" : onnx_tensor(written.node) + ".";
  const auto add = [&](const std::string& suffix, OnnxType type, std::vector<std::int64_t> shape,
                       const std::function<void(const ByteSink&)>& write) {
    if (in_rows && shape.size() == 1) shape = {codes.n, shape[0] / codes.n};
    writer_.add_initializer(written.names.emplace_back(tensor + suffix), type, shape, write);
  };
  add(is_rounded ? fmt::format("Q{}", codes.bits) : "qweight", OnnxType::kUint8,
      weight.codes_shape(), [&](const ByteSink& sink) { weight.write_codes(sink); });
  add("scales", options_.type, weight.scales_shape(),
      [&](const ByteSink& sink) { weight.write_scales(options_.type, sink); });
  if (weight.has_zero_points())
    add(is_rounded ? "zero_points" : "qzeros", OnnxType::kUint8, weight.zero_points_shape(),
        [&](const ByteSink& sink) { weight.write_zero_points(sink); });
  for (const Tensor& part : parts_of(product.weight)) part.release();
  return written;
}

std::string Exporter::add_nbits(const NBitsTensors& tensors, const std::string& input,
                                const std::string& output) {
  std::vector<std::string> inputs = {input};
  inputs.insert(inputs.end(), tensors.names.begin(), tensors.names.end());
  ++report_.code_linears;
  return add_node("MatMulNBits", tensors.node, std::move(inputs), tensors.n,
                  {{"accuracy_level", options_.provider.accuracy_level},
                   {"bits", tensors.bits},
                   {"block_size", tensors.block},
                   {"K", tensors.k},
                   {"N", tensors.n}},
                  kMicrosoft, output.empty() ? tensors.output : output);
}

std::string Exporter::add_bias(const std::string& path, std::span<const float> bias,
                               const std::string& input, const std::string& output) {
  const std::string name = path + "/Add";
  const std::string vector = add_vector(onnx_tensor(name) + ".bias", bias);
  return add_node("Add", name, {input, vector}, static_cast<std::int64_t>(bias.size()), {}, "",
                  output);
}

bool Exporter::add_packed(const AttentionPlan& plan) {
  const std::array linears = {plan.q_linear, plan.k_linear, plan.v_linear};
  std::array<Weight, linears.size()> weights;
  bool is_rounded = false;
  for (std::size_t i = 0; i < linears.size(); ++i) {
    Product product = product_of(linears[i]);
    if (i > 0 && (product.is_rounded != is_rounded || !can_join(weights[0], product.weight)))
      return false;
    is_rounded = product.is_rounded;
    weights[i] = std::move(product.weight);
  }
  std::vector<float> bias;
  for (std::size_t i = 0; i < linears.size(); ++i) {
    const auto part = bias_of(graph_.node(linears[i]));
    bias.insert(bias.end(), part.begin(), part.end());
    if (part.empty())
      bias.resize(bias.size() + static_cast<std::size_t>(output_channels(weights[i])));
  }
  const Node& q = graph_.node(plan.q_linear);
  const std::string path = onnx_parent(onnx_path(q.name)) + "/qkv_proj";
  std::string qkv =
      add_product(path, q.name, {join_rows(weights), is_rounded}, name_of(q.inputs[0]), "");
  if (!is_zero(bias)) qkv = add_bias(path, bias, qkv, "");
  if (takes_packed(plan)) {
    // Attention takes all three from the first; nobody asks for the others.
    set_name(q.output(), qkv);
  } else {
    OnnxNode split{.op = "Split", .name = path + "/Split", .inputs = {qkv}, .outputs = {}};
    std::vector<std::int64_t> widths;
    for (std::size_t i = 0; i < linears.size(); ++i) {
      const ValueId part = graph_.node(linears[i]).output();
      widths.push_back(width_of(part));
      set_name(part, fmt::format("{}/output_{}", split.name, i));
      split.outputs.push_back(activation(names_[static_cast<std::size_t>(part)], widths.back()));
    }
    split.inputs.push_back(writer_.constant(widths));
    split.attributes = {{"axis", std::int64_t{-1}}};
    writer_.add_node(split);
  }
  packed_.insert(linears.begin(), linears.end());
  return true;
}

void Exporter::linear(NodeId id) {
  if (packed_.contains(id)) return;
  const AttentionPlan* plan = plans_.of_linear(id);
  if (options_.provider.packs_qkv && plan != nullptr && plan->q_linear == id && add_packed(*plan))
    return;
  const Node& node = graph_.node(id);
  const std::string path = onnx_path(node.name);
  if (const auto* codes = std::get_if<ChannelCodes>(&node.as<LinearAttributes>().weight))
    return set_name(node.output(), add_int8_product(path, *codes, name_of(node.inputs[0])));
  const std::string output = is_logits(node.output()) ? "logits" : "";
  const bool is_biased = !is_zero(bias_of(node));
  const std::string input = name_of(node.inputs[0]);
  const std::string product_output = is_biased ? "" : output;
  std::string x = shared_head_ && shared_head_->linear == id
                      ? add_nbits(*shared_head_, input, product_output)
                      : add_product(path, node.name, product_of(id), input, product_output);
  if (is_biased) x = add_bias(path, bias_of(node), x, output);
  set_name(node.output(), std::move(x));
}

std::string Exporter::add_shared_lookup(const std::string& path, const Tensor& table) {
  // It is the last of the Linears.
  NodeId id = static_cast<NodeId>(graph_.nodes().size()) - 1;
  while (id >= 0 && graph_.node(id).op != Op::kLinear) --id;
  if (!info_.tied_head || id < 0 ||
      output_channels(graph_.node(id).as<LinearAttributes>().weight) != table.dim(0))
    fail(ErrorCode::kInvalidArgument,
         "[onnx] shared_embeddings: the head of this model is a weight of its own");
  const Node& head = graph_.node(id);
  const Product product = product_of(id);
  if (!std::holds_alternative<GroupCodes>(product.weight))
    fail(ErrorCode::kInvalidArgument,
         "[onnx] shared_embeddings: expected a head in codes, {} stays float", head.name);
  // GatherBlockQuantized wants scales and zero points in rows; MatMulNBits takes both.
  shared_head_ = write_codes(onnx_path(head.name), head.name, product, true);
  shared_head_->linear = id;
  const std::int64_t row_bytes = shared_head_->k * shared_head_->bits / 8;
  const std::string reshape = path + "/Reshape";
  writer_.add_node(
      {.op = "Reshape",
       .name = reshape,
       .inputs = {shared_head_->names[0], writer_.constant({table.dim(0), row_bytes})},
       .outputs = {{reshape + "/output_0", OnnxType::kUint8, {table.dim(0), row_bytes}}}});
  std::vector<std::string> inputs = {reshape + "/output_0", "input_ids"};
  inputs.insert(inputs.end(), shared_head_->names.begin() + 1, shared_head_->names.end());
  return add_node("GatherBlockQuantized", path + "/GatherBlockQuantized", std::move(inputs),
                  table.dim(1),
                  {{"bits", shared_head_->bits},
                   {"block_size", shared_head_->block},
                   {"gather_axis", std::int64_t{0}},
                   {"quantize_axis", std::int64_t{1}}},
                  kMicrosoft);
}

const Node* Exporter::tied_head(const Tensor& table) const {
  if (!options_.dialect.stores_tied_once) return nullptr;
  const auto head = std::ranges::find_if(graph_.nodes(), [&](const Node& node) {
    if (node.op != Op::kLinear || is_rounded(node)) return false;
    const auto* weight = std::get_if<FloatWeight>(&node.as<LinearAttributes>().weight);
    const Tensor* stored = weight == nullptr ? nullptr : weight->rows->stored();
    return stored != nullptr && stored->bytes().data() == table.bytes().data() &&
           stored->shape() == table.shape();
  });
  return head == graph_.nodes().end() ? nullptr : &*head;
}

void Exporter::rotary_angles(NodeId id) {
  const auto& angles = graph_.node(id).as<RotaryAnglesAttributes>();
  const CacheChoice choice{.has_if = options_.provider.has_if,
                           .total_length = std::string(kMaskNodes) + "/Gather/output_0",
                           .nodes = std::string(options_.dialect.rope_choice)};
  caches_ = add_rotary_caches(angles, report_.context_length, options_.type, choice, writer_);
}

void Exporter::rotary_embedding(NodeId id) {
  const Node& node = graph_.node(id);
  if (inner_rotations_.contains(id)) return set_name(node.output(), name_of(node.inputs[0]));
  const auto& attributes = node.as<RotaryAttributes>();
  const std::int64_t rotated = width_of(node.inputs[1]);
  const bool is_partial = rotated < attributes.head_dim;
  set_name(node.output(),
           add_node("RotaryEmbedding", onnx_path(node.name) + "/RotaryEmbedding",
                    {name_of(node.inputs[0]), caches_.positions, caches_.cosines, caches_.sines},
                    width_of(node.output()),
                    {{"interleaved", std::int64_t{0}},
                     {"num_heads", is_partial ? attributes.heads : 0},
                     {"rotary_embedding_dim", is_partial ? rotated : 0}},
                    kMicrosoft));
}

void Exporter::head_norm(NodeId id) {
  const Node& node = graph_.node(id);
  const auto& attributes = node.as<RmsNormAttributes>();
  const std::string path = onnx_path(node.name);
  const std::int64_t width = width_of(node.output());
  const std::int64_t head = width / attributes.heads;
  const auto add_one = [&](const char* op, const std::string& name, std::vector<std::string> inputs,
                           std::int64_t columns, std::vector<OnnxAttribute> more = {}) {
    OnnxValue output = activation(name + "/output_0", columns);
    if (columns != width) output.shape[1] = fmt::format("sequence_length * {}", attributes.heads);
    writer_.add_node({op, name, std::move(inputs), {output}, std::move(more)});
    return output.name;
  };
  std::string x = add_one("Reshape", path + "/Reshape_1",
                          {name_of(node.inputs[0]), writer_.constant({0, -1, head})}, head);
  const std::string weight =
      add_vector(onnx_tensor(path) + ".layernorm.weight", attributes.weight.as<float>());
  x = add_one("SimplifiedLayerNormalization", path + "/SimplifiedLayerNormalization", {x, weight},
              head, norm_attributes(attributes.epsilon));
  x = add_one("Reshape", path + "/Reshape_2", {x, writer_.constant({0, -1, width})}, width);
  set_name(node.output(), std::move(x));
}

void Exporter::attention(NodeId id) {
  const Node& node = graph_.node(id);
  const auto& attributes = node.as<AttentionAttributes>();
  const AttentionPlan& plan = plans_.of_attention(id);
  const bool rotates = plan.rotates() && inner_rotations_.contains(plan.q_rotary);
  const std::string mask = kMaskNodes;
  const auto cache = [&](const char* when, const char* part) {
    return fmt::format("{}.{}.{}", when, node.layer, part);
  };
  const bool is_packed = packed_.contains(plan.q_linear) && takes_packed(plan);
  std::vector<std::string> inputs = {name_of(node.inputs[0]),
                                     is_packed ? "" : name_of(node.inputs[1]),
                                     is_packed ? "" : name_of(node.inputs[2]),
                                     cache("past_key_values", "key"),
                                     cache("past_key_values", "value"),
                                     mask + "/Sub/Cast/output_0",
                                     mask + "/Gather/Cast/output_0"};
  if (rotates) inputs.insert(inputs.end(), {caches_.cosines, caches_.sines});
  const std::string name = onnx_path(node.name) + "/GroupQueryAttention";
  const auto present = [&](const char* part) {
    return OnnxValue{cache("present", part), options_.type, {}};
  };
  OnnxNode attend{.op = "GroupQueryAttention",
                  .name = name,
                  .inputs = std::move(inputs),
                  .outputs = {activation(name + "/output_0", width_of(node.output())),
                              present("key"), present("value")},
                  .attributes = {{"num_heads", attributes.heads},
                                 {"kv_num_heads", attributes.kv_heads},
                                 {"scale", attributes.scale},
                                 {"softcap", attributes.softcap},
                                 {"do_rotary", std::int64_t{rotates}},
                                 {"rotary_interleaved", std::int64_t{0}}},
                  .domain = kMicrosoft};
  if (attributes.window > 0 || options_.dialect.names_no_window)
    attend.attributes.push_back(
        {"local_window_size", attributes.window > 0 ? attributes.window : -1});
  writer_.add_node(attend);
  set_name(node.output(), name + "/output_0");
}

}  // namespace tandem
