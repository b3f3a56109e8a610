// Builds the messages of ONNX's schema.
#include "onnx/model_writer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <onnx_schema.pb.h>

#include <cstring>
#include <set>

#include "base/error.h"
#include "base/staged_file.h"
#include "base/version.h"
#include "tensor/half.h"

namespace tandem {
namespace {

namespace schema = onnx_schema;

// Of initializers in the data file, so that mapped ones can be read as what they are.
constexpr std::uint64_t kAlignment = 64;

void set_type(schema::ValueInfoProto& out, const OnnxValue& value) {
  out.set_name(value.name);
  auto& tensor = *out.mutable_type()->mutable_tensor_type();
  tensor.set_elem_type(static_cast<std::int32_t>(value.type));
  auto& shape = *tensor.mutable_shape();
  for (const OnnxDim& dim : value.shape) {
    if (const auto* size = std::get_if<std::int64_t>(&dim)) {
      shape.add_dim()->set_dim_value(*size);
    } else {
      shape.add_dim()->set_dim_param(std::get<std::string>(dim));
    }
  }
}

void set_attribute(schema::AttributeProto& out, const OnnxAttribute& attribute) {
  out.set_name(attribute.name);
  if (const auto* number = std::get_if<std::int64_t>(&attribute.value)) {
    out.set_type(schema::AttributeProto::INT);
    out.set_i(*number);
  } else if (const auto* real = std::get_if<float>(&attribute.value)) {
    out.set_type(schema::AttributeProto::FLOAT);
    out.set_f(*real);
  } else if (const auto* text = std::get_if<std::string>(&attribute.value)) {
    out.set_type(schema::AttributeProto::STRING);
    out.set_s(*text);
  } else {
    out.set_type(schema::AttributeProto::INTS);
    for (const std::int64_t item : std::get<std::vector<std::int64_t>>(attribute.value))
      out.add_ints(item);
  }
}

void set_tensor(schema::TensorProto& out, const OnnxConstant& constant) {
  out.set_name(constant.name);
  out.set_data_type(static_cast<std::int32_t>(constant.type));
  for (const std::int64_t dim : constant.shape) out.add_dims(dim);
  out.set_raw_data(constant.bytes);
}

void set_constant_node(schema::NodeProto& out, const OnnxConstant& constant,
                       const std::string& name) {
  out.set_name(name);
  out.set_op_type("Constant");
  out.add_output(constant.name);
  auto& attribute = *out.add_attribute();
  attribute.set_name("value");
  attribute.set_type(schema::AttributeProto::TENSOR);
  set_tensor(*attribute.mutable_t(), constant);
}

void set_entry(schema::TensorProto& tensor, const char* key, const std::string& value) {
  auto& entry = *tensor.add_external_data();
  entry.set_key(key);
  entry.set_value(value);
}

template <typename T>
std::string bytes_of(std::span<const T> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}

OnnxValue value_of(const OnnxConstant& constant) {
  return {constant.name, constant.type, {constant.shape.begin(), constant.shape.end()}};
}

// As Python writes it: "30.0".
std::string python_float(float number) {
  std::string text = fmt::format("{}", number);
  if (text.find_first_not_of("-0123456789") == std::string::npos) text += ".0";
  return text;
}

}  // namespace

std::string_view to_string(OnnxType type) noexcept {
  switch (type) {
    case OnnxType::kFloat:
      return "FLOAT";
    case OnnxType::kUint8:
      return "UINT8";
    case OnnxType::kInt8:
      return "INT8";
    case OnnxType::kInt32:
      return "INT32";
    case OnnxType::kInt64:
      return "INT64";
    case OnnxType::kBool:
      return "BOOL";
    case OnnxType::kFloat16:
      return "FLOAT16";
  }
  return "UNDEFINED";
}

std::int64_t size_of(OnnxType type) noexcept {
  switch (type) {
    case OnnxType::kInt64:
      return 8;
    case OnnxType::kFloat:
    case OnnxType::kInt32:
      return 4;
    case OnnxType::kFloat16:
      return 2;
    case OnnxType::kUint8:
    case OnnxType::kInt8:
    case OnnxType::kBool:
      return 1;
  }
  return 0;
}

struct ModelWriter::State {
  State(const fs::path& folder, const std::string& filename, const OnnxDialect& its_dialect)
      : path(folder / filename),
        data_name(filename + ".data"),
        data(folder / data_name),
        dialect(its_dialect) {}

  schema::GraphProto& graph() { return *model.mutable_graph(); }
  void require_new(const std::string& name) {
    if (!names.insert(name).second) fail(ErrorCode::kInternal, "[onnx] {}: written twice", name);
  }
  void add_constant(const OnnxConstant& constant, const std::string& node) {
    set_constant_node(*graph().add_node(), constant, node);
    set_type(*graph().add_value_info(), value_of(constant));
  }
  // `text` is the number, or those of a list with commas between them.
  std::string constant(OnnxType type, const std::string& text, std::vector<std::int64_t> shape,
                       std::string bytes) {
    const std::string kind = dialect.names_ranks ? fmt::format("TensorProto.{}/{}D/{}",
                                                               to_string(type), shape.size(), text)
                             : shape.empty()     ? fmt::format("{}/{}", to_string(type), text)
                                                 : fmt::format("{}/[{}]", to_string(type), text);
    OnnxConstant constant{"/model/constants/" + kind, type, std::move(shape), std::move(bytes)};
    if (names.insert(constant.name).second) add_constant(constant, "/model/constant_nodes/" + kind);
    return constant.name;
  }

  fs::path path;
  std::string data_name;
  StagedFile data;
  OnnxDialect dialect;
  std::uint64_t data_size = 0;
  schema::ModelProto model;
  // Of nodes, constants and initializers.
  std::set<std::string> names;
};

ModelWriter::ModelWriter(const fs::path& folder, const std::string& filename,
                         const OnnxDialect& dialect)
    : state_(std::make_unique<State>(folder, filename, dialect)) {
  schema::ModelProto& model = state_->model;
  model.set_ir_version(dialect.ir_version);
  model.set_producer_name("tandem");
  model.set_producer_version(std::string(build_version()));
  for (const auto& [domain, version] : {std::pair{"", dialect.opset}, {"com.microsoft", 1}}) {
    auto& opset = *model.add_opset_import();
    opset.set_domain(domain);
    opset.set_version(version);
  }
  state_->graph().set_name("main_graph");
}

ModelWriter::~ModelWriter() = default;

void ModelWriter::add_input(const OnnxValue& value) {
  set_type(*state_->graph().add_input(), value);
}

void ModelWriter::add_output(const OnnxValue& value) {
  set_type(*state_->graph().add_output(), value);
}

void ModelWriter::add_node(const OnnxNode& node) {
  state_->require_new(node.name);
  auto& out = *state_->graph().add_node();
  out.set_name(node.name);
  out.set_op_type(node.op);
  if (!node.domain.empty()) out.set_domain(node.domain);
  for (const std::string& input : node.inputs) out.add_input(input);
  for (const OnnxValue& output : node.outputs) {
    out.add_output(output.name);
    if (!output.name.empty() && !output.shape.empty())
      set_type(*state_->graph().add_value_info(), output);
  }
  for (const OnnxAttribute& attribute : node.attributes)
    set_attribute(*out.add_attribute(), attribute);
}

std::string ModelWriter::constant(const std::vector<std::int64_t>& list) {
  return state_->constant(OnnxType::kInt64, fmt::format("{}", fmt::join(list, ", ")),
                          {static_cast<std::int64_t>(list.size())},
                          bytes_of(std::span<const std::int64_t>(list)));
}

std::string ModelWriter::constant(std::int64_t number) {
  return state_->constant(OnnxType::kInt64, fmt::format("{}", number), {},
                          bytes_of(std::span<const std::int64_t>(&number, 1)));
}

std::string ModelWriter::constant(float number, OnnxType type) {
  const std::uint16_t half = float_to_f16(number);
  return state_->constant(type, python_float(number), {},
                          type == OnnxType::kFloat16
                              ? bytes_of(std::span<const std::uint16_t>(&half, 1))
                              : bytes_of(std::span<const float>(&number, 1)));
}

std::string ModelWriter::int8_zero() {
  return state_->constant(OnnxType::kInt8, "0", {}, std::string(1, '\0'));
}

void ModelWriter::add_initializer(const std::string& name, OnnxType type,
                                  const std::vector<std::int64_t>& shape,
                                  const std::function<void(const ByteSink&)>& write) {
  state_->require_new(name);
  std::int64_t expected = size_of(type);
  for (const std::int64_t dim : shape) expected *= dim;
  const std::uint64_t offset = (state_->data_size + kAlignment - 1) / kAlignment * kAlignment;
  std::uint64_t end = offset;
  write([&](std::span<const std::byte> bytes) {
    state_->data.write_at(end, bytes);
    end += bytes.size();
  });
  if (end != offset + static_cast<std::uint64_t>(expected))
    fail(ErrorCode::kInternal, "[onnx] {}: {} bytes, expected {}", name, end - offset, expected);
  state_->data_size = end;

  auto& tensor = *state_->graph().add_initializer();
  tensor.set_name(name);
  tensor.set_data_type(static_cast<std::int32_t>(type));
  for (const std::int64_t dim : shape) tensor.add_dims(dim);
  tensor.set_data_location(schema::TensorProto::EXTERNAL);
  set_entry(tensor, "location", state_->data_name);
  set_entry(tensor, "offset", fmt::format("{}", offset));
  set_entry(tensor, "length", fmt::format("{}", expected));
}

void ModelWriter::add_choice(const std::string& name, const std::string& condition,
                             const std::vector<OnnxValue>& outputs,
                             std::span<const OnnxConstant> if_true,
                             std::span<const OnnxConstant> if_false) {
  add_node({.op = "If", .name = name, .inputs = {condition}, .outputs = outputs});
  schema::GraphProto& graph = state_->graph();
  auto& node = *graph.mutable_node(graph.node_size() - 1);
  for (const auto& [branch, constants] :
       {std::pair{"then_branch", if_true}, {"else_branch", if_false}}) {
    auto& attribute = *node.add_attribute();
    attribute.set_name(branch);
    attribute.set_type(schema::AttributeProto::GRAPH);
    schema::GraphProto& body = *attribute.mutable_g();
    body.set_name(fmt::format("{}/{}", name, branch));
    for (const OnnxConstant& constant : constants) {
      set_constant_node(*body.add_node(), constant, "/" + constant.name + "/Constant");
      set_type(*body.add_output(), value_of(constant));
    }
  }
}

void ModelWriter::finish() {
  state_->data.commit();
  std::string bytes;
  if (!state_->model.SerializeToString(&bytes))
    fail(ErrorCode::kUnsupported, "[onnx] {}: larger than the 2 GiB that protobuf can hold",
         state_->path.string());
  write_text_file(state_->path, bytes);
}

}  // namespace tandem
