// Static int8 as pairs of QuantizeLinear and DequantizeLinear around float products, the form that
// execution providers for NPUs turn back into integers.
#include <vector>

#include "base/error.h"
#include "onnx/exporter.h"
#include "onnx/onnx_names.h"
#include "onnx/onnx_weights.h"

namespace tandem {

// Both of the pair: what reads the codes, reads what they stand for.
void Exporter::quantize(NodeId id) {
  const Node& node = graph_.node(id);
  const std::string path = onnx_path(node.name);
  const std::int64_t width = width_of(node.output());
  const std::string scale = writer_.constant(node.as<QuantizeAttributes>().scale, options_.type);
  const std::string zero = writer_.int8_zero();
  const std::string quantize = path + "/QuantizeLinear";
  OnnxValue codes = activation(quantize + "/output_0", width);
  codes.type = OnnxType::kInt8;
  writer_.add_node({.op = "QuantizeLinear",
                    .name = quantize,
                    .inputs = {name_of(node.inputs[0]), scale, zero},
                    .outputs = {codes}});
  set_name(node.output(), add_node("DequantizeLinear", path + "/DequantizeLinear",
                                   {codes.name, scale, zero}, width));
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
