// Attributes are written and read through their fields(), so that both sides know the same names.
#include "graph/graph_json.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "base/error.h"
#include "base/printable.h"
#include "graph/ops.h"

namespace tandem {
namespace {

// Bounds on what a hostile file can request; several times what any model has.
constexpr std::int64_t kMaxNodes = 1 << 20;
constexpr std::int64_t kMaxWidth = std::int64_t{1} << 32;
// No product of two attributes overflows.
constexpr std::int64_t kMaxInteger = std::int64_t{1} << 31;
constexpr std::size_t kMaxRowSpaces = 64;

DType read_dtype(const JsonObject& json, const char* key) {
  const std::string name = json.get_string(key);
  try {
    return dtype_from_string(name);
  } catch (const Error&) {
    fail(ErrorCode::kFormat, "[graph] {}.{}: expected a type such as F32 or I8, got \"{}\"",
         json.where(), key, printable(name));
  }
}

// Writes one attribute after another into the node's object. Attributes with their default value
// are omitted.
class FieldWriter {
 public:
  FieldWriter(const Node& node, OrderedJson& json, TensorSink& sink)
      : node_(node), json_(json), sink_(sink) {}

  void operator()(const char* key, const Tensor& tensor) {
    // An embedding's table is the module's weight, whatever the attribute's name.
    const std::string part = std::string(key) == "table" ? "weight" : key;
    if (!tensor.empty()) json_[key] = sink_.keep(node_.name + "." + part, tensor);
  }
  void operator()(const char* key, const Weight& weight) { json_[key] = std::visit(*this, weight); }
  void operator()(const char* key, DType dtype) { json_[key] = to_string(dtype); }
  template <typename T>
  void operator()(const char* key, const std::vector<T>& numbers) {
    if (!numbers.empty()) json_[key] = numbers;
  }
  void operator()(const char* key, float number) { json_[key] = number; }
  void operator()(const char* key, std::int64_t number) { json_[key] = number; }

  OrderedJson operator()(const FloatWeight& weight) {
    return {{"kind", "float"}, {"values", sink_.keep(node_.name + ".weight", weight.rows)}};
  }
  OrderedJson operator()(const GroupCodes& weight) {
    OrderedJson json = {{"kind", "group_codes"},
                        {"bits", weight.bits},
                        {"signed", weight.is_signed},
                        {"k", weight.k},
                        {"codes", sink_.keep(node_.name + ".codes", weight.codes)},
                        {"scales", sink_.keep(node_.name + ".scales", weight.scales)}};
    if (!weight.zero_points.empty())
      json["zero_points"] = sink_.keep(node_.name + ".zero_points", weight.zero_points);
    return json;
  }
  OrderedJson operator()(const ChannelCodes& weight) {
    if (!weight.block_scales.empty())
      return {{"kind", "block_codes"},
              {"k", weight.k},
              {"codes", sink_.keep(node_.name + ".codes", weight.codes)},
              {"block_scales", sink_.keep(node_.name + ".block_scales", weight.block_scales)},
              {"scales", sink_.keep(node_.name + ".scales", weight.scales)}};
    return {{"kind", "channel_codes"},
            {"codes", sink_.keep(node_.name + ".codes", weight.codes)},
            {"scales", sink_.keep(node_.name + ".scales", weight.scales)}};
  }

 private:
  const Node& node_;
  OrderedJson& json_;
  TensorSink& sink_;
};

class FieldReader {
 public:
  FieldReader(const JsonObject& json, const TensorSource& source, std::string name)
      : json_(json), source_(source), name_(std::move(name)) {}

  void operator()(const char* key, Tensor& tensor) {
    if (json_.has(key)) tensor = source_.find(json_.get_string(key));
  }
  void operator()(const char* key, Weight& weight) {
    weight = read_weight(json_.child(key));
    validate(weight, fmt::format("{}: {}", json_.where(), name_));
  }
  void operator()(const char* key, DType& dtype) { dtype = read_dtype(json_, key); }
  void operator()(const char* key, std::vector<float>& numbers) {
    if (!json_.has(key)) return;
    const Json& list = json_.at(key);
    if (!list.is_array()) reject(key, "an array of numbers");
    for (const Json& number : list) {
      if (!number.is_number()) reject(key, "an array of numbers");
      numbers.push_back(to_float(key, number.get<double>()));
    }
  }
  void operator()(const char* key, std::vector<std::int64_t>& numbers) {
    numbers = json_.get_ints(key);
  }
  void operator()(const char* key, float& number) {
    number = to_float(key, json_.get_number_or(key, number));
  }
  void operator()(const char* key, std::int64_t& number) {
    number = json_.get_int_or(key, number, -kMaxInteger, kMaxInteger);
  }

 private:
  [[noreturn]] void reject(std::string_view key, std::string_view expected) const {
    fail(ErrorCode::kFormat, "[graph] {}.{}: expected {}", json_.where(), key, expected);
  }

  // Converting a double beyond the range of float would be undefined behaviour.
  float to_float(std::string_view key, double number) const {
    if (!(std::abs(number) <= 3.4028234663852886e38)) reject(key, "a number in the range of F32");
    return static_cast<float>(number);
  }

  Tensor matrix(const JsonObject& json, const char* key) const {
    Tensor tensor = source_.find(json.get_string(key));
    if (tensor.empty() || tensor.shape().size() != 2 || tensor.elements() == 0)
      fail(ErrorCode::kFormat, "[graph] {}.{}: expected a matrix, got {}", json.where(), key,
           to_string(tensor.shape()));
    return tensor;
  }

  Weight read_weight(const JsonObject& json) const {
    const std::string kind = json.get_string("kind");
    if (kind == "float") {
      Tensor values = matrix(json, "values");
      if (!is_float(values.dtype()))
        fail(ErrorCode::kFormat, "[graph] {}.values: expected floats, got {}", json.where(),
             to_string(values.dtype()));
      return FloatWeight(std::move(values));
    }
    if (kind == "channel_codes") {
      ChannelCodes weight;
      weight.codes = matrix(json, "codes");
      weight.scales = source_.find(json.get_string("scales"));
      weight.n = weight.codes.dim(0);
      weight.k = weight.codes.dim(1);
      return weight;
    }
    if (kind == "block_codes") {
      ChannelCodes weight;
      weight.k = json.get_int("k", 1, kMaxWidth);
      weight.codes = matrix(json, "codes");
      weight.block_scales = matrix(json, "block_scales");
      weight.scales = source_.find(json.get_string("scales"));
      weight.n = weight.codes.dim(0);
      return weight;
    }
    if (kind == "group_codes") {
      GroupCodes weight;
      weight.bits = static_cast<int>(json.get_int("bits", 4, 8));
      weight.is_signed = json.get_bool("signed");
      weight.k = json.get_int("k", 1, kMaxWidth);
      weight.codes = matrix(json, "codes");
      weight.scales = matrix(json, "scales");
      if (json.has("zero_points")) weight.zero_points = matrix(json, "zero_points");
      weight.n = weight.codes.dim(0);
      // The group size follows from the number of scales.
      const std::int64_t groups = weight.scales.dim(1);
      if (groups < 1 || weight.k % groups != 0)
        fail(ErrorCode::kFormat, "[graph] {}.scales: expected a divisor of k = {} of them, got {}",
             json.where(), weight.k, groups);
      weight.group = weight.k / groups;
      return weight;
    }
    fail(ErrorCode::kFormat,
         "[graph] {}.kind: expected float, group_codes, channel_codes or block_codes, got \"{}\"",
         json.where(), printable(kind));
  }

  const JsonObject& json_;
  const TensorSource& source_;
  std::string name_;
};

RowSpaceId read_rows(const JsonObject& json, Graph& graph, const char* key) {
  const std::string name = json.get_string(key);
  const auto& known = graph.row_spaces();
  if (std::ranges::find(known, name) == known.end())
    fail(ErrorCode::kFormat, "[graph] {}.{}: \"{}\" is not one of the row spaces", json.where(),
         key, printable(name));
  return graph.row_space(name);
}

std::vector<ValueId> read_ids(const JsonObject& json, const char* key) {
  std::vector<ValueId> ids;
  for (const std::int64_t id : json.get_ints(key)) {
    if (id < 0 || id > kMaxNodes)
      fail(ErrorCode::kFormat, "[graph] {}.{}: expected numbers of values, got {}", json.where(),
           key, id);
    ids.push_back(static_cast<ValueId>(id));
  }
  return ids;
}

const Json& read_list(const JsonObject& json, const char* key) {
  const Json& list = json.at(key);
  if (!list.is_array() || list.size() > kMaxNodes)
    fail(ErrorCode::kFormat, "[graph] {}.{}: expected an array of at most {}", json.where(), key,
         kMaxNodes);
  return list;
}

void read_node(const JsonObject& json, const TensorSource& source, Graph& graph) {
  const std::string word = json.get_string("op");
  const std::optional<Op> op = find_op(word);
  if (!op)
    fail(ErrorCode::kUnsupported, "[graph] {}.op: \"{}\" is not an operator that is known here",
         json.where(), printable(word));
  std::string name = json.get_string("name");
  Attributes attributes = info(*op).attributes();
  std::visit(
      [&](auto& a) { std::decay_t<decltype(a)>::fields(a, FieldReader(json, source, name)); },
      attributes);
  const auto layer = static_cast<std::int32_t>(json.get_int_or("layer", -1, -1, 65535));
  const auto& outputs =
      graph.add_node(*op, std::move(name), layer, read_ids(json, "inputs"), std::move(attributes));
  if (outputs != read_ids(json, "outputs"))
    fail(ErrorCode::kFormat, "[graph] {}.outputs: expected the next {} values, from %{} on",
         json.where(), outputs.size(), outputs.front());
}

}  // namespace

OrderedJson graph_to_json(const Graph& graph, TensorSink& sink) {
  // A graph may number its values in another order: by value, its number in the JSON.
  std::vector<ValueId> numbers(graph.values().size(), -1);
  ValueId next = 0;
  const auto numbers_of = [&](const std::vector<ValueId>& ids) {
    std::vector<ValueId> found;
    for (const ValueId id : ids) found.push_back(numbers[static_cast<std::size_t>(id)]);
    return found;
  };
  const auto define = [&](const std::vector<ValueId>& ids) {
    for (const ValueId id : ids) numbers[static_cast<std::size_t>(id)] = next++;
    return numbers_of(ids);
  };
  define(graph.inputs());
  OrderedJson inputs = OrderedJson::array();
  for (const ValueId id : graph.inputs()) {
    const Value& value = graph.value(id);
    OrderedJson input = {{"name", value.name},
                         {"dtype", to_string(value.dtype)},
                         {"rows", graph.row_spaces()[static_cast<std::size_t>(value.rows)]},
                         {"width", value.width}};
    if (value.quantization) {
      input["scales"] = sink.keep(value.name + ".scales", value.quantization->scales);
      input["times_row_scale"] = value.quantization->times_row_scale;
    }
    inputs.push_back(std::move(input));
  }
  OrderedJson nodes = OrderedJson::array();
  for (const Node& node : graph.nodes()) {
    OrderedJson json = {{"op", to_string(node.op)}, {"name", node.name}};
    if (node.layer >= 0) json["layer"] = node.layer;
    json["inputs"] = numbers_of(node.inputs);
    json["outputs"] = define(node.outputs);
    std::visit(
        [&](const auto& a) { std::decay_t<decltype(a)>::fields(a, FieldWriter(node, json, sink)); },
        node.attributes);
    nodes.push_back(std::move(json));
  }
  return {{"row_spaces", graph.row_spaces()},
          {"inputs", std::move(inputs)},
          {"nodes", std::move(nodes)},
          {"outputs", numbers_of(graph.outputs())}};
}

Graph graph_from_json(const JsonObject& json, const TensorSource& source) {
  Graph graph;
  const Json& spaces = read_list(json, "row_spaces");
  if (spaces.size() > kMaxRowSpaces)
    fail(ErrorCode::kFormat, "[graph] {}.row_spaces: expected at most {}, got {}", json.where(),
         kMaxRowSpaces, spaces.size());
  for (const Json& name : spaces) {
    if (!name.is_string())
      fail(ErrorCode::kFormat, "[graph] {}.row_spaces: expected names", json.where());
    graph.row_space(name.get<std::string>());
  }
  if (spaces.empty() || spaces[0] != kTokensName || graph.row_spaces().size() != spaces.size())
    fail(ErrorCode::kFormat, "[graph] {}.row_spaces: expected different names, \"{}\" first",
         json.where(), kTokensName);
  const auto place = [&](const char* list, std::size_t i) {
    return fmt::format("{}.{}[{}]", json.where(), list, i);
  };
  const Json& inputs = read_list(json, "inputs");
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const JsonObject input(inputs[i], place("inputs", i));
    Value value{.name = input.get_string("name"),
                .dtype = read_dtype(input, "dtype"),
                .rows = read_rows(input, graph, "rows"),
                .width = input.get_int("width", 1, kMaxWidth)};
    if (input.has("scales"))
      value.quantization = {source.find(input.get_string("scales")),
                            input.get_bool_or("times_row_scale", false)};
    graph.add_input(std::move(value));
  }
  const Json& nodes = read_list(json, "nodes");
  for (std::size_t i = 0; i < nodes.size(); ++i)
    read_node(JsonObject(nodes[i], place("nodes", i)), source, graph);
  graph.set_outputs(read_ids(json, "outputs"));
  verify(graph);
  return graph;
}

}  // namespace tandem
