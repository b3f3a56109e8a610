// Static int8 as pairs of QuantizeLinear and DequantizeLinear around float products, the form that
// execution providers for NPUs turn back into integers.
#include <algorithm>
#include <vector>

#include "base/error.h"
#include "onnx/exporter.h"
#include "onnx/onnx_names.h"
#include "onnx/onnx_weights.h"

namespace tandem {

// What reads the codes, reads what they stand for.
void Exporter::quantize(NodeId id) {
  const Node& node = graph_.node(id);
  set_name(node.output(), add_pair(onnx_path(node.name), name_of(node.inputs[0]),
                                   node.as<QuantizeAttributes>().scale, width_of(node.output())));
}

std::string Exporter::add_int8_product(const std::string& path, const ChannelCodes& weight,
                                       const std::string& input) {
  const std::string matmul = path + "/MatMul";
  const std::string tensor = onnx_tensor(matmul) + ".weight";
  writer_.add_initializer(tensor + "_quantized", OnnxType::kInt8, {weight.k, weight.n},
                          [&](const ByteSink& sink) { write_transposed(weight, sink); });
  const bool per_channel = weight.scales.elements() == weight.n && weight.n > 1;
  std::vector<std::int64_t> shape;
  if (per_channel) shape.push_back(weight.n);
  writer_.add_initializer(tensor + "_scale", options_.type, shape, [&](const ByteSink& sink) {
    write_values(weight.scales.as<float>(), options_.type, sink);
  });
  const std::string dequantize = matmul + "/weight/DequantizeLinear";
  OnnxNode values{.op = "DequantizeLinear",
                  .name = dequantize,
                  .inputs = {tensor + "_quantized", tensor + "_scale"},
                  .outputs = {{dequantize + "/output_0", options_.type, {weight.k, weight.n}}}};
  if (per_channel) values.attributes.push_back({"axis", std::int64_t{1}});
  writer_.add_node(values);
  for (const Tensor& part : parts_of(weight)) part.release();
  ++report_.int8_linears;
  return add_node("MatMul", matmul, {input, dequantize + "/output_0"}, weight.n);
}

std::string Exporter::add_pair(const std::string& path, const std::string& input, float step,
                               std::int64_t width) {
  const std::string scale = writer_.constant(step, options_.type);
  const std::string zero = writer_.int8_zero();
  const std::string quantize = path + "/QuantizeLinear";
  OnnxValue codes = activation(quantize + "/output_0", width);
  codes.type = OnnxType::kInt8;
  writer_.add_node({.op = "QuantizeLinear",
                    .name = quantize,
                    .inputs = {input, scale, zero},
                    .outputs = {codes}});
  return add_node("DequantizeLinear", path + "/DequantizeLinear", {codes.name, scale, zero}, width);
}

// What a value differs from its code by is half a step at most, unless the code was clipped.
void Exporter::shadow_linear(NodeId id) {
  const Node& node = graph_.node(id);
  const auto& attributes = node.as<ShadowLinearAttributes>();
  const std::int64_t hot = attributes.weight.dim(0), n = attributes.weight.dim(1);
  const std::string path = onnx_path(node.name);
  const ValueId input = node.inputs[0];
  const auto readers = uses_.readers(input);
  const auto quantized = std::ranges::find_if(readers, [&](NodeId reader) {
    const Node& pair = graph_.node(reader);
    return pair.op == Op::kQuantize && pair.as<QuantizeAttributes>().scale == attributes.scale &&
           !names_[static_cast<std::size_t>(pair.output())].empty();
  });
  const std::string rounded =
      quantized != readers.end()
          ? name_of(graph_.node(*quantized).output())
          : add_pair(path, name_of(input), attributes.scale, width_of(input));
  const std::string channels = onnx_tensor(path) + ".channels";
  writer_.add_initializer(channels, OnnxType::kInt32, {hot},
                          [&](const ByteSink& sink) { sink(attributes.channels.bytes()); });
  const std::string weight = onnx_tensor(path) + ".weight";
  writer_.add_initializer(weight, options_.type, {hot, n}, [&](const ByteSink& sink) {
    write_rows(*stored_rows(attributes.weight), options_.type, sink);
  });
  const OnnxAttribute last_axis{"axis", std::int64_t{2}};
  const std::string x =
      add_node("Gather", path + "/Gather_1", {name_of(input), channels}, hot, {last_axis});
  const std::string code =
      add_node("Gather", path + "/Gather_2", {rounded, channels}, hot, {last_axis});
  const std::string rest = add_node("Sub", path + "/Sub", {x, code}, hot);
  const std::string size = add_node("Abs", path + "/Abs", {rest}, hot);
  // A little more than half a step, for what float arithmetic rounds.
  const std::string bound = writer_.constant(0.5005F * attributes.scale, options_.type);
  OnnxValue clipped = activation(path + "/Greater/output_0", hot);
  clipped.type = OnnxType::kBool;
  writer_.add_node(
      {.op = "Greater", .name = path + "/Greater", .inputs = {size, bound}, .outputs = {clipped}});
  const std::string excess = add_node(
      "Where", path + "/Where", {clipped.name, rest, writer_.constant(0.0F, options_.type)}, hot);
  set_name(node.output(), add_node("MatMul", path + "/MatMul", {excess, weight}, n));
}

// The product is in float already; its bias is added here.
void Exporter::dequantize(NodeId id) {
  const Node& node = graph_.node(id);
  const auto bias = node.as<DequantizeAttributes>().bias.as<float>();
  std::string x = name_of(node.inputs[0]);
  const Node& product = graph_.node(uses_.producer(node.inputs[0]));
  const std::string output = is_logits(node.output()) ? "logits" : "";
  if (!bias.empty()) {
    x = add_bias(onnx_path(product.name), bias, x, output);
  } else if (!output.empty()) {
    x = add_node("Identity", onnx_path(product.name) + "/Identity", {x}, width_of(node.output()),
                 {}, "", output);
  }
  set_name(node.output(), std::move(x));
}

}  // namespace tandem
