// Graphs of whole checkpoints: their logits against transformers, their form, and what a damaged
// checkpoint gives.
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
  ASSERT_NO_THROW(verify(graph));
  const auto reference = SafetensorsFile::open(folder / "reference.safetensors").tensors;
  const Tensor& ids = reference.at("ids");
  const Tensor& expected = reference.at("logits");
  ASSERT_EQ(expected.dim(0), ids.dim(0));
  ASSERT_EQ(expected.dim(1), graph.value(graph.output).width);

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
  EXPECT_EQ(std::get<FloatWeight>(up->as<LinearAttributes>().weight).values.dtype(), DType::kBF16);
  EXPECT_EQ(up->as<LinearAttributes>().bias.dtype(), DType::kF32);
  EXPECT_EQ(find(graph, "model.norm")->as<RmsNormAttributes>().weight.dtype(), DType::kF32);
}

TEST(BuildGraph, SharesTheTableWithATiedHead) {
  const Graph graph = build(fixture("models/fixtures/llama_biased"));
  const auto& table = find(graph, "model.embed_tokens")->as<EmbeddingAttributes>().table;
  const auto& head = std::get<FloatWeight>(find(graph, "lm_head")->as<LinearAttributes>().weight);
  EXPECT_EQ(table.bytes().data(), head.values.bytes().data());
}

// A quantized package has a head of its own beside the embedding table, though the model ties them.
TEST(BuildGraph, PrefersTheHeadOfTheSource) {
  class WithHead : public CheckpointWeights {
   public:
    using CheckpointWeights::CheckpointWeights;
    bool has(const std::string& tensor) const override {
      return tensor == "lm_head.weight" || CheckpointWeights::has(tensor);
    }
    Weight linear(const std::string& module, std::int64_t n, std::int64_t k) const override {
      if (module != "lm_head") return CheckpointWeights::linear(module, n, k);
      return Int8Channels{.n = n, .k = k};
    }
  };
  const Checkpoint checkpoint = Checkpoint::open(fixture("models/fixtures/llama_biased"));
  const Graph graph =
      build_graph(JsonObject(checkpoint.config(), "config.json"), WithHead(checkpoint));
  EXPECT_TRUE(
      std::holds_alternative<Int8Channels>(find(graph, "lm_head")->as<LinearAttributes>().weight));
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
  // Embedding, SelectRows, final norm and head; 2 norms, 7 Linears, 2 rotations, attention, SiLU,
  // Mul and 2 Adds.
  EXPECT_EQ(graph.nodes().size(), 4U + 6U * 16U);
  EXPECT_EQ(graph.value(graph.output).width, 4096);
  EXPECT_EQ(graph.value(graph.output).rows, Rows::kSelected);

  const std::string text = dump(graph);
  const std::string head = text.substr(0, text.find("%18 ="));
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
  EXPECT_EQ(build_error(), "[checkpoint] " + scratch_.path().string() + ": tensor \"" + projection +
                               "\": expected F32, F16 or BF16, got I16");
  std::swap(tensors_.at(projection), integers);

  const std::string norm = "model.norm.weight";
  tensors_[norm] = Tensor::allocate(DType::kI32, tensors_.at(norm).shape(), &data);
  std::fill_n(data, tensors_[norm].bytes().size(), std::byte{0});
  EXPECT_EQ(build_error(), "[models] " + scratch_.path().string() + ": tensor \"" + norm +
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
