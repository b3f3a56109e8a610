// Graphs as JSON: what is written is read again, and what is not a graph gives one clear error.
#include "graph/graph_json.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "graph/every_operator.h"
#include "graph/int8_nodes.h"
#include "graph/model_info.h"
#include "graph/small_parts.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::EveryOperator;
using testing::ones;

// Keeps tensors under the names they come with.
class Shelf : public TensorSink, public TensorSource {
 public:
  std::string keep(const std::string& name, const Tensor& tensor) override {
    EXPECT_FALSE(tensors.contains(name)) << name;
    tensors[name] = tensor;
    return name;
  }
  std::string keep(const std::string& name, const std::shared_ptr<const RowSource>& rows) override {
    return keep(name, *rows->stored());
  }
  Tensor find(const std::string& reference) const override {
    const auto found = tensors.find(reference);
    if (found == tensors.end()) fail(ErrorCode::kNotFound, "[test] no tensor {}", reference);
    return found->second;
  }

  std::map<std::string, Tensor> tensors;
};

Json written(const Graph& graph, Shelf& shelf) {
  return parse_json(graph_to_json(graph, shelf).dump(), "test");
}

bool same(const Tensor& a, const Tensor& b) {
  return a.empty() == b.empty() &&
         (a.empty() || (a.dtype() == b.dtype() && a.shape() == b.shape() &&
                        std::ranges::equal(a.bytes(), b.bytes())));
}

// Compares attributes field by field.
class Comparison {
 public:
  explicit Comparison(std::string name) : name_(std::move(name)) {}
  void operator()(const char* key, const Tensor& a, const Tensor& b) const {
    EXPECT_TRUE(same(a, b)) << name_ << ' ' << key;
  }
  void operator()(const char* key, const Weight& a, const Weight& b) const {
    ASSERT_EQ(a.index(), b.index()) << name_ << ' ' << key;
    EXPECT_EQ(describe(a), describe(b)) << name_;
    EXPECT_EQ(dequantize_rows(a, 0, output_channels(a)), dequantize_rows(b, 0, output_channels(b)))
        << name_;
  }
  template <typename T>
  void operator()(const char* key, const T& a, const T& b) const {
    EXPECT_EQ(a, b) << name_ << ' ' << key;
  }

 private:
  std::string name_;
};

template <typename T>
void compare(const std::string& name, const T& a, const T& b) {
  const Comparison comparison(name);
  T::fields(a, [&](const char* key, const auto& of_a) {
    T::fields(b, [&](const char* other, const auto& of_b) {
      if constexpr (std::is_same_v<decltype(of_a), decltype(of_b)>)
        if (std::strcmp(key, other) == 0) comparison(key, of_a, of_b);
    });
  });
}

void compare(const Graph& a, const Graph& b) {
  EXPECT_EQ(dump(a), dump(b));
  EXPECT_EQ(a.row_spaces(), b.row_spaces());
  EXPECT_EQ(a.inputs(), b.inputs());
  EXPECT_EQ(a.outputs(), b.outputs());
  ASSERT_EQ(a.values().size(), b.values().size());
  for (std::size_t v = 0; v < a.values().size(); ++v) {
    EXPECT_EQ(a.values()[v].name, b.values()[v].name);
    const auto &of_a = a.values()[v].quantization, &of_b = b.values()[v].quantization;
    ASSERT_EQ(of_a.has_value(), of_b.has_value()) << a.values()[v].name;
    if (!of_a) continue;
    EXPECT_TRUE(same(of_a->scales, of_b->scales)) << a.values()[v].name;
    EXPECT_EQ(of_a->times_row_scale, of_b->times_row_scale) << a.values()[v].name;
  }
  ASSERT_EQ(a.nodes().size(), b.nodes().size());
  for (std::size_t n = 0; n < a.nodes().size(); ++n) {
    const Node &of_a = a.nodes()[n], &of_b = b.nodes()[n];
    EXPECT_EQ(of_a.layer, of_b.layer);
    ASSERT_EQ(of_a.attributes.index(), of_b.attributes.index());
    std::visit(
        [&](const auto& attributes) {
          using T = std::decay_t<decltype(attributes)>;
          compare(of_a.name, attributes, std::get<T>(of_b.attributes));
        },
        of_a.attributes);
  }
}

TEST(GraphJson, ReadsEveryOperatorThatItWrote) {
  const Graph graph = EveryOperator::build();
  Shelf shelf;
  const Json json = written(graph, shelf);
  const Graph again = graph_from_json(JsonObject(json, "graph.json"), shelf);
  compare(graph, again);
  EXPECT_NO_THROW(verify_decoder(again));
  // Written once more: the same text.
  Shelf other;
  EXPECT_EQ(written(again, other), json);
  EXPECT_EQ(other.tensors.size(), shelf.tensors.size());
}

TEST(GraphJson, HasTheFormThatIsDocumented) {
  Shelf shelf;
  const Json json = written(EveryOperator::build(), shelf);
  EXPECT_EQ(json["row_spaces"], (Json{"tokens", "selected"}));
  EXPECT_EQ(json["inputs"][0],
            (Json{{"name", "input_ids"}, {"dtype", "I32"}, {"rows", "tokens"}, {"width", 1}}));
  const auto node = [&](const char* name) {
    return *std::ranges::find_if(json["nodes"], [&](const Json& n) { return n["name"] == name; });
  };
  const Json k = node("k");
  EXPECT_EQ(k["op"], "Linear");
  EXPECT_EQ(k["layer"], 0);
  EXPECT_EQ(k["weight"], (Json{{"kind", "group_codes"},
                               {"bits", 4},
                               {"signed", false},
                               {"k", 64},
                               {"codes", "k.codes"},
                               {"scales", "k.scales"},
                               {"zero_points", "k.zero_points"}}));
  EXPECT_FALSE(k.contains("bias"));
  EXPECT_EQ(node("q")["bias"], "q.bias");
  EXPECT_EQ(node("q")["weight"], (Json{{"kind", "float"}, {"values", "q.weight"}}));
  EXPECT_EQ(node("embed")["table"], "embed.weight");
  EXPECT_FALSE(node("embed").contains("layer"));
  EXPECT_FALSE(node("v")["weight"].contains("zero_points"));
  EXPECT_EQ(node("o")["weight"]["kind"], "channel_codes");
  EXPECT_EQ(node("narrow.requantize")["shifts"], Json{7});
  EXPECT_EQ(node("narrow.requantize")["dtype"], "I8");
  EXPECT_EQ(node("dynamic")["outputs"].size(), 2U);
}

// A segment may begin with codes.
TEST(GraphJson, KeepsTheScalesOfInputs) {
  for (const bool times_row_scale : {false, true}) {
    Graph graph;
    const ValueId sums =
        graph.add_input({.name = "sums",
                         .dtype = DType::kI32,
                         .width = 2,
                         .quantization = Quantization{
                             Tensor::from_floats(std::vector{0.5F, 2.0F}, {2}), times_row_scale}});
    std::vector<ValueId> inputs = {sums};
    if (times_row_scale) inputs.push_back(graph.add_input({.name = "scale", .width = 1}));
    graph.set_outputs({graph.add(Op::kDequantize, "y", -1, inputs, DequantizeAttributes{})});
    Shelf shelf;
    const Json json = written(graph, shelf);
    compare(graph, graph_from_json(JsonObject(json, "graph.json"), shelf));
  }
}

TEST(GraphJson, NumbersValuesInTheOrderOfTheirDefinition) {
  Graph graph;
  const ValueId a = graph.add_input({.name = "a", .width = 4});
  const ValueId opened = graph.add(Op::kSilu, "open", -1, {a});
  const ValueId b = graph.add_input({.name = "b", .width = 4});
  graph.set_outputs({graph.add(Op::kAdd, "sum", -1, {opened, b})});
  Shelf shelf;
  const Json json = written(graph, shelf);
  EXPECT_EQ(json["nodes"][0]["outputs"], Json{2});
  EXPECT_EQ(json["nodes"][1]["inputs"], (Json{2, 1}));
  const Graph again = graph_from_json(JsonObject(json, "graph.json"), shelf);
  EXPECT_EQ(dump(again),
            "%2 = SiLU(%0) open -> [tokens, 4]\n%3 = Add(%2, %1) sum -> [tokens, 4]\n");
}

// JSON that is a graph but for one thing.
class HostileJson : public ::testing::Test {
 protected:
  HostileJson() { json_ = written(EveryOperator::build(), shelf_); }

  Json& node(const std::string& name) {
    for (Json& node : json_["nodes"])
      if (node["name"] == name) return node;
    ADD_FAILURE() << "no node " << name;
    return json_["nodes"][0];
  }
  std::size_t index(const std::string& name) {
    return static_cast<std::size_t>(&node(name) - &json_["nodes"][0]);
  }

  // The error of reading, which must name the file.
  std::string read() {
    const std::string message =
        error_of([&] { graph_from_json(JsonObject(json_, "graph.json"), shelf_); });
    json_ = written(EveryOperator::build(), fresh());
    return message;
  }
  // The same, without what comes before the place in the node of this name.
  std::string read(const std::string& name) {
    const std::string place = fmt::format("graph.json.nodes[{}]", index(name));
    std::string message = read();
    const std::size_t at = message.find(place);
    EXPECT_NE(at, std::string::npos) << message;
    return at == std::string::npos ? message : message.substr(at + place.size());
  }

  Shelf& fresh() {
    shelf_ = {};
    return shelf_;
  }

  Shelf shelf_;
  Json json_;
};

TEST_F(HostileJson, NamesAnUnknownOperator) {
  node("silu")["op"] = "Swish\n";
  EXPECT_EQ(read("silu"), ".op: \"Swish\\x0a\" is not an operator that is known here");
  node("silu")["op"] = 3;
  EXPECT_NE(read("silu").find("op"), std::string::npos);
  node("silu").erase("op");
  EXPECT_NE(read("silu").find("op: is missing"), std::string::npos);
}

TEST_F(HostileJson, NamesIdsThatAreWrong) {
  node("silu")["inputs"] = {100000};
  EXPECT_NE(read().find("[silu] silu: input %100000 is not defined"), std::string::npos);
  for (const Json& bad : {Json(-1), Json(std::int64_t{1} << 40)}) {
    node("silu")["inputs"] = {bad};
    EXPECT_NE(read("silu").find(".inputs: expected numbers of values"), std::string::npos);
  }
  for (const Json& bad : {Json("1"), Json(1.5), Json(std::uint64_t{18446744073709551615U}),
                          Json::array({nullptr}), Json::object()}) {
    node("silu")["inputs"] = bad;
    EXPECT_NE(read("silu").find("inputs: "), std::string::npos);
  }
  node("silu")["inputs"] = Json::array();
  EXPECT_EQ(read(), "[silu] silu: expected 1 input, got 0");
  node("silu")["outputs"] = {3};
  EXPECT_NE(read("silu").find(".outputs: expected the next 1 values, from %"), std::string::npos);
  node("dynamic")["outputs"].erase(1);
  EXPECT_NE(read("dynamic").find(".outputs: expected the next 2 values, from %"),
            std::string::npos);
}

// A node that reads what only a later one writes, or itself.
TEST_F(HostileJson, RefusesCycles) {
  node("silu")["inputs"] = node("silu")["outputs"];
  EXPECT_NE(read().find("[silu] silu: input %"), std::string::npos);
  node("residual")["inputs"][1] = node("mlp_residual")["outputs"][0];
  EXPECT_NE(read().find("[add] residual: input %"), std::string::npos);
  std::swap(node("silu"), node("mul"));
  EXPECT_NE(read().find("is not defined"), std::string::npos);
}

TEST_F(HostileJson, NamesAMissingTensor) {
  node("q")["weight"]["values"] = "elsewhere";
  EXPECT_EQ(read(), "[test] no tensor elsewhere");
  node("q")["weight"].erase("values");
  EXPECT_NE(read("q").find("values: is missing"), std::string::npos);
  node("q").erase("weight");
  EXPECT_NE(read("q").find("weight: is missing"), std::string::npos);
  node("embed").erase("table");
  EXPECT_EQ(read(),
            "[embedding] embed: expected table as a float tensor of 2 dimensions, got none");
}

TEST_F(HostileJson, NamesTensorsThatAreNotWhatTheyShouldBe) {
  const auto with = [&](const char* reference, Tensor tensor) {
    shelf_.tensors[reference] = std::move(tensor);
    return read();
  };
  const auto integers = [](const Shape& shape) {
    std::byte* data = nullptr;
    Tensor tensor = Tensor::allocate(DType::kI32, shape, &data);
    std::fill_n(data, tensor.bytes().size(), std::byte{1});
    return tensor;
  };
  EXPECT_NE(with("q.weight", ones({64, 2, 32})).find("expected a matrix, got [64, 2, 32]"),
            std::string::npos);
  EXPECT_NE(with("q.weight", integers({64, 64})).find("values: expected floats, got I32"),
            std::string::npos);
  EXPECT_EQ(with("q.weight", ones({64, 32})), "[linear] q: expected K = 32, got 64");
  EXPECT_EQ(with("q.bias", integers({64})),
            "[linear] q: expected bias as a float tensor of 1 dimension, got I32 [64]");
  EXPECT_NE(with("k.codes", ones({32, 32})).find("codes"), std::string::npos);
  EXPECT_NE(with("k.codes", integers({32, 32})).find("codes"), std::string::npos);
  EXPECT_NE(with("k.scales", ones({32, 3})).find("expected a divisor of k = 64 of them, got 3"),
            std::string::npos);
  EXPECT_NE(with("k.zero_points", ones({32, 1})).find("zero points"), std::string::npos);
  EXPECT_NE(with("o.codes", ones({64, 64})).find("codes"), std::string::npos);
  EXPECT_NE(with("o.scales", ones({3})).find("scales"), std::string::npos);
  EXPECT_NE(with("o.scales", integers({64})).find("scales"), std::string::npos);
  for (const float scale :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const std::vector<float> scales(64, scale);
    EXPECT_NE(with("o.scales", Tensor::from_floats(scales, {64})).find("finite"),
              std::string::npos);
    EXPECT_NE(with("k.scales", Tensor::from_floats(scales, {32, 2})).find("is not finite"),
              std::string::npos);
  }
}

TEST_F(HostileJson, NamesShadowsThatDoNotFit) {
  const std::string place = "[shadow_linear] shadow: expected ";
  const auto with = [&](const char* reference, Tensor tensor) {
    shelf_.tensors[reference] = std::move(tensor);
    return read();
  };
  std::byte* data = nullptr;
  const Tensor beyond = Tensor::allocate(DType::kI32, {4}, &data);
  std::fill_n(data, beyond.bytes().size(), std::byte{1});
  EXPECT_EQ(with("shadow.channels", beyond),
            place + "ascending channels below 96, got 16843009 after -1");
  EXPECT_EQ(with("shadow.channels", ones({4})),
            place + "channels as I32 of 1 dimension, got F32 [4]");
  EXPECT_EQ(with("shadow.weight", ones({3, 64})), place + "weight [4, n], got [3, 64]");
  EXPECT_EQ(with("shadow.weight", ones({4, 63})),
            "[add] shadow_sum: expected width of shadow = 64, got 63");
  node("shadow")["scale"] = 0;
  EXPECT_EQ(read(), place + "a scale above 0, got 0");
  node("shadow").erase("channels");
  node("shadow")["scale"] = 1;
  EXPECT_EQ(read(), place + "channels as I32 of 1 dimension, got none");
}

// Int4 in blocks, whose parts are all a file's.
TEST(GraphJson, KeepsInt4InBlocks) {
  const auto bytes = [](const Shape& shape, int value) {
    std::byte* data = nullptr;
    Tensor tensor = Tensor::allocate(DType::kU8, shape, &data);
    std::fill_n(data, tensor.bytes().size(), static_cast<std::byte>(value));
    return tensor;
  };
  Graph graph;
  const ValueId x = graph.add_input({.name = "x", .width = 64});
  const ValueId codes = graph.add(Op::kQuantize, "x.quantize", 0, {x}, QuantizeAttributes{0.5F});
  const ChannelCodes weight{2, 64, bytes({2, 32}, 0x2F), ones({2}), bytes({2, 2}, 16)};
  graph.set_outputs({add_static_int8(graph, "down", 0, codes, weight, {})});
  Shelf shelf;
  const Json json = written(graph, shelf);
  EXPECT_EQ(json["nodes"][1]["weight"], (Json{{"kind", "block_codes"},
                                              {"k", 64},
                                              {"codes", "down.codes"},
                                              {"block_scales", "down.block_scales"},
                                              {"scales", "down.scales"}}));
  const auto read = [&] { return graph_from_json(JsonObject(json, "graph.json"), shelf); };
  compare(read(), graph);
  const auto with = [&](const char* name, const Tensor& tensor) {
    Shelf spoiled = shelf;
    spoiled.tensors[name] = tensor;
    return error_of([&] { graph_from_json(JsonObject(json, "graph.json"), spoiled); });
  };
  EXPECT_EQ(
      with("down.block_scales", bytes({2, 2}, 17)),
      "[weight] graph.json.nodes[1]: down: the scale of row 0, block 0: expected 1 to 16, got "
      "17");
  EXPECT_NE(with("down.block_scales", bytes({2, 2}, 0)).find("expected 1 to 16, got 0"),
            std::string::npos);
  EXPECT_NE(with("down.block_scales", bytes({2}, 1)).find("expected a matrix"), std::string::npos);
  EXPECT_NE(with("down.block_scales", bytes({2, 3}, 1)).find("expected one for every 16, 32 or 64"),
            std::string::npos);
  EXPECT_NE(with("down.codes", bytes({2, 64}, 1)).find("codes: expected U8 [2, 32]"),
            std::string::npos);
  EXPECT_NE(with("down.scales", ones({3})).find("scales: expected F32 [2]"), std::string::npos);
}

TEST_F(HostileJson, NamesNumbersThatCannotBe) {
  for (const Json& bad : {Json(1e300), Json(-1e39), Json("1"), Json(true)}) {
    node("cap")["cap"] = bad;
    EXPECT_NE(read("cap").find("cap"), std::string::npos) << bad;
  }
  node("cap").erase("cap");
  EXPECT_EQ(read(), "[softcap] cap: expected a cap above 0, got 0");
  for (const Json& bad :
       {Json(std::int64_t{1} << 53), Json(1e18), Json("x"),
        Json(std::uint64_t{18446744073709551615U}), Json(-(std::int64_t{1} << 62))})
    for (const char* key : {"heads", "head_dim"}) {
      node("q_rotary")[key] = bad;
      EXPECT_NE(read("q_rotary").find(key), std::string::npos) << bad;
    }
  // Two sizes whose product would overflow are beyond the bound, or do not fit their input.
  node("q_rotary")["heads"] = std::int64_t{1} << 31;
  node("q_rotary")["head_dim"] = std::int64_t{1} << 31;
  EXPECT_EQ(read(), "[rotary_embedding] q_rotary: expected width = 4611686018427387904, got 64");
  node("q")["layer"] = 70000;
  EXPECT_NE(read("q").find("layer: expected an integer in [-1, 65535], got 70000"),
            std::string::npos);
  node("angles")["inverse_frequencies"] = {1e300};
  EXPECT_NE(read("angles").find(".inverse_frequencies: expected a number in the range of F32"),
            std::string::npos);
  for (const Json& bad : {Json("x"), Json::array({"x"}), Json(1), Json::array({nullptr})}) {
    node("angles")["inverse_frequencies"] = bad;
    EXPECT_NE(read("angles").find(".inverse_frequencies: expected an array of numbers"),
              std::string::npos);
  }
  node("narrow.requantize")["shifts"] = {1 << 20};
  EXPECT_EQ(read(), "[requantize] narrow.requantize: expected shifts from -31 to 31, got 1048576");
  node("k")["weight"]["bits"] = 3;
  EXPECT_NE(read("k").find("bits: expected an integer in [4, 8], got 3"), std::string::npos);
  node("k")["weight"]["bits"] = 5;
  EXPECT_NE(read().find("expected codes of 4 or 8 bits, got 5"), std::string::npos);
  node("k")["weight"]["k"] = std::int64_t{1} << 50;
  EXPECT_NE(read("k").find("k: expected an integer"), std::string::npos);
}

TEST_F(HostileJson, NamesTypesAndKindsThatDoNotExist) {
  json_["inputs"][0]["dtype"] = "I33";
  EXPECT_EQ(read(),
            "[graph] graph.json.inputs[0].dtype: expected a type such as F32 or I8, got \"I33\"");
  json_["inputs"][0]["dtype"] = "F32";
  EXPECT_EQ(read(), "[embedding] embed: expected I32 input, got F32 (input_ids)");
  node("narrow.requantize")["dtype"] = "F8";
  EXPECT_NE(read("narrow.requantize").find(".dtype: expected a type such as F32 or I8, got \"F8\""),
            std::string::npos);
  node("q")["weight"]["kind"] = "ternary";
  EXPECT_NE(read("q").find("kind: expected float, group_codes, channel_codes or "
                           "block_codes, got \"ternary\""),
            std::string::npos);
  node("q")["weight"] = 7;
  EXPECT_NE(read("q").find("weight"), std::string::npos);
}

TEST_F(HostileJson, NamesInputsOutputsAndRowSpacesThatDoNotFit) {
  json_["row_spaces"] = {"selected", "tokens"};
  EXPECT_EQ(read(), "[graph] graph.json.row_spaces: expected different names, \"tokens\" first");
  json_["row_spaces"] = {"tokens", "selected", "selected"};
  EXPECT_NE(read().find("expected different names"), std::string::npos);
  json_["row_spaces"] = {"tokens", 1};
  EXPECT_NE(read().find("row_spaces: expected names"), std::string::npos);
  json_["row_spaces"] = Json::array();
  for (int i = 0; i < 1000; ++i) json_["row_spaces"].push_back(std::to_string(i));
  EXPECT_EQ(read(), "[graph] graph.json.row_spaces: expected at most 64, got 1000");
  json_["row_spaces"] = {"tokens"};
  EXPECT_EQ(read(), "[graph] graph.json.inputs[1].rows: \"selected\" is not one of the row spaces");
  json_["inputs"][0]["width"] = 0;
  EXPECT_NE(read().find("width: expected an integer in [1, 4294967296], got 0"), std::string::npos);
  json_["inputs"] = "x";
  EXPECT_EQ(read(), "[graph] graph.json.inputs: expected an array of at most 1048576");
  json_["inputs"][0]["scales"] = "q.bias";
  EXPECT_EQ(read(), "[graph] input input_ids: expected 1 or 1 finite scales above 0 in F32");
  json_["outputs"] = {100000};
  EXPECT_EQ(read(), "[graph] the output is missing");
  json_["outputs"] = Json::array();
  EXPECT_EQ(read(), "[graph] the output is missing");
  json_["outputs"] = {0};
  EXPECT_EQ(read(), "[graph] no node writes the output, %0 input_ids");
  for (const char* key : {"row_spaces", "inputs", "nodes", "outputs"}) {
    json_.erase(key);
    EXPECT_EQ(read(), fmt::format("[json] graph.json: {}: is missing", key));
  }
}

// Every value of the JSON with every kind of nonsense: a graph, or one error.
TEST_F(HostileJson, SurvivesNonsenseEverywhere) {
  const std::vector<Json> nonsense = {nullptr,
                                      true,
                                      0,
                                      -1,
                                      3,
                                      1e300,
                                      "",
                                      "x",
                                      Json::array(),
                                      Json::object(),
                                      std::uint64_t{18446744073709551615U}};
  const Json whole = json_;
  const Json flat = whole.flatten();
  for (const auto& [pointer, ignored] : flat.items())
    for (const Json& value : nonsense) {
      Json json = whole;
      json[Json::json_pointer(pointer)] = value;
      try {
        verify(graph_from_json(JsonObject(json, "graph.json"), shelf_));
      } catch (const Error& error) {
        EXPECT_NE(error.code(), ErrorCode::kInternal) << pointer << ": " << error.what();
      }
    }
}

ModelInfo small_info() {
  return {.model_type = "llama",
          .hidden_size = 64,
          .intermediate_size = 96,
          .layers = 2,
          .heads = 4,
          .kv_heads = 2,
          .head_dim = 16,
          .vocabulary = 100,
          .context_length = 2048,
          .tied_head = true,
          .bos = 1,
          .eos = {2, 7},
          .pad = {}};
}

ModelInfo info_from(const Json& json) {
  return model_info_from_json(JsonObject(json, "info.json"));
}

TEST(ModelInfoJson, ReadsWhatItWrote) {
  const Json json = parse_json(to_json(small_info()).dump(), "test");
  EXPECT_FALSE(json.contains("pad"));
  const ModelInfo info = info_from(json);
  EXPECT_EQ(info.model_type, "llama");
  EXPECT_EQ(info.hidden_size, 64);
  EXPECT_EQ(info.intermediate_size, 96);
  EXPECT_EQ(info.layers, 2);
  EXPECT_EQ(info.heads, 4);
  EXPECT_EQ(info.kv_heads, 2);
  EXPECT_EQ(info.head_dim, 16);
  EXPECT_EQ(info.vocabulary, 100);
  EXPECT_EQ(info.context_length, 2048);
  EXPECT_TRUE(info.tied_head);
  EXPECT_EQ(info.bos, std::optional<std::int64_t>(1));
  EXPECT_EQ(info.eos, (std::vector<std::int64_t>{2, 7}));
  EXPECT_EQ(info.pad, std::nullopt);
  EXPECT_EQ(info.longest_sequence(), 2048);
  EXPECT_FALSE(json.contains("open_context"));
  ModelInfo open = small_info();
  open.open_context = true;
  const Json open_json = parse_json(to_json(open).dump(), "test");
  EXPECT_TRUE(info_from(open_json).open_context);
  EXPECT_EQ(info_from(open_json).longest_sequence(), kLongestSequence);
}

TEST(ModelInfoJson, NamesKeysAndBounds) {
  const Json good = parse_json(to_json(small_info()).dump(), "test");
  const Json huge = std::uint64_t{18446744073709551615U};
  for (const auto& [key, ignored] : good.items()) {
    for (const Json& bad : {Json(-1), huge, Json(1.5), Json::object(), Json(nullptr)}) {
      if (bad.is_null() && key == "bos") continue;
      Json json = good;
      json[key] = bad;
      const std::string message = error_of([&] { info_from(json); });
      EXPECT_NE(message.find("info.json"), std::string::npos) << message;
      EXPECT_NE(message.find(key), std::string::npos) << message;
    }
  }
  Json json = good;
  json["eos"] = {2, 100};
  EXPECT_EQ(error_of([&] { info_from(json); }),
            "[model] info.json.eos: expected ids in [0, 100), got 100");
  json = good;
  json["heads"] = 0;
  EXPECT_NE(error_of([&] { info_from(json); }).find("expected an integer in [1, 65536], got 0"),
            std::string::npos);
}

}  // namespace
}  // namespace tandem
