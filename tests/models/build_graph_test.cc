// Graphs of whole checkpoints: their logits against transformers, their structure, and errors for
// damaged checkpoints.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/safetensors.h"
#include "models/graph_interpreter.h"
#include "models/model.h"
#include "support.h"

namespace tandem {
namespace {

using testing::demo_dir;
using testing::error_of;
using testing::fixture;

Graph build(const Checkpoint& checkpoint) {
  return build_graph(
      JsonObject(checkpoint.config(), (checkpoint.folder() / "config.json").string()),
      CheckpointWeights(checkpoint));
}

Graph build(const fs::path& folder) { return build(Checkpoint::open(folder)); }

const Node* find(const Graph& graph, const std::string& name) {
  const auto found = std::ranges::find(graph.nodes(), name, &Node::name);
  return found == graph.nodes().end() ? nullptr : &*found;
}

// The sliding window of every layer.
std::vector<std::int64_t> windows(const Graph& graph) {
  std::vector<std::int64_t> found;
  for (const Node& node : graph.nodes())
    if (node.op == Op::kGroupQueryAttention) found.push_back(node.as<AttentionAttributes>().window);
  return found;
}

float worst_difference(const std::vector<float>& logits, const Tensor& expected) {
  if (static_cast<std::int64_t>(logits.size()) != expected.elements()) return INFINITY;
  float worst = 0;
  for (std::size_t i = 0; i < logits.size(); ++i)
    worst = std::max(worst, std::abs(logits[i] - expected.as<float>()[i]));
  return worst;
}

class TinyModel : public ::testing::TestWithParam<const char*> {};

TEST_P(TinyModel, GivesTheLogitsOfTransformers) {
  const fs::path folder = fixture("models/fixtures") / GetParam();
  const Graph graph = build(folder);
  ASSERT_NO_THROW(verify_decoder(graph));
  const auto reference = SafetensorsFile::open(folder / "reference.safetensors").tensors;
  const Tensor& ids = reference.at("ids");
  const Tensor& expected = reference.at("logits");
  ASSERT_EQ(expected.dim(0), ids.dim(0));
  ASSERT_EQ(expected.dim(1), graph.value(graph.outputs()[0]).width);

  // float32 sums of 100 products near 1, in another order
  EXPECT_LT(worst_difference(testing::interpret(graph, ids.as<std::int32_t>()), expected), 1e-4F);

  // Frequencies that depend on the length: a prompt within the original context.
  if (!reference.contains("logits_short")) return;
  const Tensor& shorter = reference.at("logits_short");
  const auto prompt = ids.as<std::int32_t>().first(static_cast<std::size_t>(shorter.dim(0)));
  EXPECT_LT(worst_difference(testing::interpret(graph, prompt), shorter), 1e-4F);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, TinyModel,
                         ::testing::Values("llama_rope", "llama_biased", "llama_head_dim",
                                           "llama_yarn", "llama_dynamic", "qwen2_window", "qwen3",
                                           "mistral_window", "phi3_longrope", "chatglm", "smollm3",
                                           "gemma2"));

TEST(BuildGraph, KeepsWeightsInTheirType) {
  const Graph graph = build(fixture("models/fixtures/llama_biased"));
  const Node* up = find(graph, "model.layers.1.mlp.up_proj");
  ASSERT_NE(up, nullptr);
  EXPECT_EQ(up->layer, 1);
  EXPECT_EQ(std::get<FloatWeight>(up->as<LinearAttributes>().weight).rows->dtype(), DType::kBF16);
  EXPECT_EQ(up->as<LinearAttributes>().bias.dtype(), DType::kF32);
  EXPECT_EQ(find(graph, "model.norm")->as<RmsNormAttributes>().weight.dtype(), DType::kF32);
}

TEST(BuildGraph, SharesTheTableWithATiedHead) {
  const Graph graph = build(fixture("models/fixtures/llama_biased"));
  const auto& table = find(graph, "model.embed_tokens")->as<EmbeddingAttributes>().table;
  const auto& head = std::get<FloatWeight>(find(graph, "lm_head")->as<LinearAttributes>().weight);
  EXPECT_EQ(table.bytes().data(), head.rows->stored()->bytes().data());
}

ChannelCodes int8_zeros(std::int64_t n, std::int64_t k) {
  ChannelCodes weight{.n = n, .k = k};
  std::byte* codes = nullptr;
  weight.codes = Tensor::allocate(DType::kI8, {n, k}, &codes);
  std::fill_n(codes, n * k, std::byte{0});
  weight.scales = Tensor::from_floats(std::vector<float>{0.5F}, {1});
  return weight;
}

// Modules whose names contain one of the keys are int8, with these scales for what they read.
class WithInt8 : public CheckpointWeights {
 public:
  WithInt8(const Checkpoint& checkpoint, std::map<std::string, float> scales)
      : CheckpointWeights(checkpoint), scales_(std::move(scales)) {}
  bool has(const std::string& tensor) const override {
    return (tensor == "lm_head.weight" && scales_.contains("lm_head")) ||
           CheckpointWeights::has(tensor);
  }
  Weight linear(const std::string& module, std::int64_t n, std::int64_t k) const override {
    return scale_of(module) == nullptr ? CheckpointWeights::linear(module, n, k)
                                       : Weight(int8_zeros(n, k));
  }
  float input_scale(const std::string& module) const override { return *scale_of(module); }

 private:
  const float* scale_of(const std::string& module) const {
    for (const auto& [key, scale] : scales_)
      if (module.find(key) != std::string::npos) return &scale;
    return nullptr;
  }

  std::map<std::string, float> scales_;
};

Graph build_int8(std::map<std::string, float> scales) {
  const Checkpoint checkpoint = Checkpoint::open(fixture("models/fixtures/llama_biased"));
  return build_graph(JsonObject(checkpoint.config(), "config.json"),
                     WithInt8(checkpoint, std::move(scales)));
}

const Node& writer_of(const Graph& graph, ValueId value) {
  return *std::ranges::find_if(graph.nodes(), [&](const Node& node) {
    return std::ranges::find(node.outputs, value) != node.outputs.end();
  });
}

// A quantized package has a head of its own beside the embedding table, though the model ties them.
TEST(BuildGraph, PrefersTheHeadOfTheSource) {
  const Graph graph = build_int8({{"lm_head", 0.0F}});
  EXPECT_TRUE(
      std::holds_alternative<ChannelCodes>(find(graph, "lm_head")->as<LinearAttributes>().weight));
}

TEST(BuildGraph, QuantizesWhatInt8WeightsRead) {
  const Graph graph =
      build_int8({{"q_proj", 0.25F}, {"k_proj", 0.25F}, {"v_proj", 0.5F}, {"down_proj", 0.0F}});
  const auto codes_of = [&](const std::string& module) -> const Node& {
    return writer_of(graph, find(graph, module)->inputs[0]);
  };
  const std::string attention = "model.layers.0.self_attn.";
  // Those that read the same value at the same scale share its codes.
  const Node& q = codes_of(attention + "q_proj");
  EXPECT_EQ(q.op, Op::kQuantize);
  EXPECT_EQ(q.as<QuantizeAttributes>().scale, 0.25F);
  EXPECT_EQ(&codes_of(attention + "k_proj"), &q);
  const Node& v = codes_of(attention + "v_proj");
  EXPECT_EQ(v.as<QuantizeAttributes>().scale, 0.5F);
  EXPECT_EQ(v.inputs, q.inputs);
  // The bias is added behind the sums.
  EXPECT_TRUE(find(graph, attention + "q_proj")->as<LinearAttributes>().bias.empty());
  const Node* dequantize = find(graph, attention + "q_proj.dequantize");
  ASSERT_NE(dequantize, nullptr);
  EXPECT_FALSE(dequantize->as<DequantizeAttributes>().bias.empty());
  EXPECT_EQ(dequantize->inputs.size(), 1U);
  // Without a scale in the checkpoint: one for each token.
  EXPECT_EQ(codes_of("model.layers.0.mlp.down_proj").op, Op::kDynamicQuantize);
  EXPECT_EQ(find(graph, "model.layers.0.mlp.down_proj.dequantize")->inputs.size(), 2U);
}

TEST(BuildGraph, PutsWindowsWhereTransformersDoes) {
  const Checkpoint checkpoint = Checkpoint::open(fixture("models/fixtures/qwen2_window"));
  using Windows = std::vector<std::int64_t>;
  const auto with = [&](const Json& changes) {
    Json config = checkpoint.config();
    config.merge_patch(changes);  // null removes a key
    return windows(build_graph(JsonObject(config, "config.json"), CheckpointWeights(checkpoint)));
  };
  EXPECT_EQ(with(Json::object()), (Windows{0, 8, 8}));
  EXPECT_EQ(with({{"max_window_layers", 2}}), (Windows{0, 0, 8}));
  EXPECT_EQ(with({{"max_window_layers", nullptr}}), (Windows{0, 0, 0}));
  EXPECT_EQ(with({{"max_window_layers", 0}, {"sliding_window", nullptr}}),
            (Windows{4096, 4096, 4096}));
  EXPECT_EQ(with({{"use_sliding_window", false}}), (Windows{0, 0, 0}));
  EXPECT_EQ(with({{"layer_types", {"sliding_attention", "full_attention", "sliding_attention"}}}),
            (Windows{8, 0, 8}));

  Json config = checkpoint.config();
  config["sliding_window"] = nullptr;
  EXPECT_EQ(windows(build_graph(JsonObject(config, "config.json"), CheckpointWeights(checkpoint))),
            (Windows{0, 0, 0}));
}

TEST(BuildGraph, BuildsTheDemo) {
  const Graph graph = build(demo_dir());
  verify(graph);
  EXPECT_EQ(graph.layers(), 6);
  // Embedding, angles, SelectRows, final norm and head; 2 norms, 7 Linears, 2 rotations, attention,
  // SiLU, Mul and 2 Adds.
  EXPECT_EQ(graph.nodes().size(), 5U + 6U * 16U);
  EXPECT_EQ(graph.row_spaces(), (std::vector<std::string>{"tokens", "selected"}));
  ASSERT_EQ(graph.inputs().size(), 2U);
  EXPECT_EQ(graph.value(graph.inputs()[0]).name, "input_ids");
  EXPECT_EQ(graph.value(graph.inputs()[1]).name, "selected_rows");
  ASSERT_EQ(graph.outputs().size(), 1U);
  EXPECT_EQ(graph.value(graph.outputs()[0]).width, 4096);
  EXPECT_EQ(graph.value(graph.outputs()[0]).rows, graph.value(graph.inputs()[1]).rows);

  const std::string text = dump(graph);
  const std::string head = text.substr(0, text.find("%20 ="));
  EXPECT_EQ(head, read_text_file(fixture("models/fixtures/demo_block.txt"), 1 << 16));
}

// A copy of a fixture in which tensors and configuration can be changed.
class DamagedModel : public ::testing::Test {
 protected:
  DamagedModel() {
    const fs::path source = fixture("models/fixtures/llama_head_dim");
    tensors_ = SafetensorsFile::open(source / "model.safetensors").tensors;
    fs::copy_file(source / "config.json", scratch_ / "config.json");
  }

  std::string build_error() {
    write_safetensors(scratch_ / "model.safetensors", tensors_);
    return error_of([&] { build(scratch_.path()); });
  }

  testing::ScratchFolder scratch_;
  std::map<std::string, Tensor> tensors_;
};

TEST_F(DamagedModel, NamesAMissingTensor) {
  const std::vector<std::string> names = {
      "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight",
      "model.layers.1.self_attn.k_proj.weight", "model.layers.0.input_layernorm.weight"};
  for (const std::string& name : names) {
    const Tensor kept = tensors_.at(name);
    tensors_.erase(name);
    const std::string message = build_error();
    EXPECT_NE(message.find(name), std::string::npos) << message;
    EXPECT_NE(message.find(scratch_.path().string()), std::string::npos) << message;
    tensors_[name] = kept;
  }
}

TEST_F(DamagedModel, NamesAMisshapenTensor) {
  for (const std::string name :
       {"model.embed_tokens.weight", "model.norm.weight", "model.layers.1.self_attn.o_proj.weight"})
    for (const Shape& shape : {Shape{3, 5}, Shape{7}, Shape{1, 1, 1}}) {
      const Tensor kept = tensors_.at(name);
      tensors_[name] = Tensor::from_floats(
          std::vector<float>(static_cast<std::size_t>(element_count(shape)), 0.0F), shape);
      const std::string message = build_error();
      EXPECT_NE(message.find(name), std::string::npos) << message;
      EXPECT_NE(message.find(to_string(shape)), std::string::npos) << message;
      tensors_[name] = kept;
    }
}

TEST_F(DamagedModel, NamesATensorOfTheWrongType) {
  const std::string projection = "model.layers.0.mlp.up_proj.weight";
  std::byte* data = nullptr;
  Tensor integers = Tensor::allocate(DType::kI16, tensors_.at(projection).shape(), &data);
  std::fill_n(data, integers.bytes().size(), std::byte{0});
  std::swap(tensors_.at(projection), integers);
  const std::string file = (scratch_ / "model.safetensors").string();
  EXPECT_EQ(build_error(), "[checkpoint] " + file + ": tensor \"" + projection +
                               "\": expected F32, F16 or BF16, got I16");
  std::swap(tensors_.at(projection), integers);

  const std::string norm = "model.norm.weight";
  tensors_[norm] = Tensor::allocate(DType::kI32, tensors_.at(norm).shape(), &data);
  std::fill_n(data, tensors_[norm].bytes().size(), std::byte{0});
  EXPECT_EQ(build_error(), "[models] " + file + ": tensor \"" + norm +
                               "\": expected F32, F16, BF16 or F64, got I32");
}

// Every key of a real configuration with every kind of nonsense: a graph, or one error that names
// the file.
TEST_F(DamagedModel, SurvivesNonsenseInEveryKey) {
  const Checkpoint checkpoint = Checkpoint::open(fixture("models/fixtures/llama_rope"));
  const std::vector<Json> nonsense = {nullptr,
                                      true,
                                      0,
                                      -1,
                                      1,
                                      3,
                                      1e300,
                                      -1e300,
                                      1e-300,
                                      0.5,
                                      "",
                                      "x",
                                      Json::array(),
                                      Json::object(),
                                      Json::array({1, "x"}),
                                      std::uint64_t{18446744073709551615U}};
  const auto try_build = [&](const Json& config) {
    try {
      verify(build_graph(JsonObject(config, "folder/config.json"), CheckpointWeights(checkpoint)));
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_TRUE(message.find("folder/config.json") != std::string::npos ||
                  message.find(checkpoint.folder().string()) != std::string::npos)
          << config << "\n"
          << message;
    }
  };
  for (const auto& [key, ignored] : checkpoint.config().items())
    for (const Json& value : nonsense) {
      Json config = checkpoint.config();
      config[key] = value;
      try_build(config);
    }
  for (const auto& [key, ignored] : checkpoint.config()["rope_parameters"].items())
    for (const Json& value : nonsense) {
      Json config = checkpoint.config();
      config["rope_parameters"][key] = value;
      try_build(config);
    }
}

TEST_F(DamagedModel, RefusesSizesThatTheTensorsDoNotHave) {
  Json config = read_json_file(scratch_ / "config.json");
  config["num_hidden_layers"] = 4096;
  write_text_file(scratch_ / "config.json", config.dump());
  EXPECT_NE(build_error().find("model.layers.2."), std::string::npos);
  config["vocab_size"] = 1 << 24;
  write_text_file(scratch_ / "config.json", config.dump());
  EXPECT_NE(build_error().find("model.embed_tokens.weight"), std::string::npos);
}

}  // namespace
}  // namespace tandem
