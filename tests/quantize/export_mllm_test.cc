// What mllm's tools make of a model: the files, and that they compute what the checkpoint does.
#include "quantize/export_mllm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "checkpoint/gguf/gguf_export.h"
#include "checkpoint/safetensors.h"
#include "models/model.h"
#include "quantize/mllm_tools.h"
#include "quantize/planted.h"
#include "quantize/run_graph.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem::testing {
namespace {

float worst_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return INFINITY;
  float worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::fabs(a[i] - b[i]));
  return worst;
}

Graph graph_of(const Checkpoint& checkpoint) {
  return build_graph(checkpoint.config_object(), CheckpointWeights(checkpoint));
}

// Two documents of letters, and a tokenizer of them that fits the fixtures' vocabulary of 67.
void write_text(const fs::path& folder) {
  Json vocabulary = Json::object();
  for (char letter = 'a'; letter <= 'z'; ++letter)
    vocabulary[std::string(1, letter)] = 10 + letter - 'a';
  write_text_file(
      folder / "tokenizer.json",
      Json{{"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}}}.dump());
  std::string text;
  for (int i = 0; i < 256; ++i) text += static_cast<char>('a' + i * i % 26);
  write_text_file(folder / "val.jsonl", Json{{"text", text.substr(0, 128)}}.dump() + "\n" +
                                            Json{{"text", text.substr(128)}}.dump() + "\n");
}

MllmModelConfig model_config(const fs::path& model, const std::string& type) {
  return {.model_type = type, .tokenizer_name = model, .model_name = model};
}

class ExportedFamily : public ::testing::TestWithParam<const char*> {
 protected:
  // Both files of a family's fixture, rotated if that is asked for, beside the logits of the original.
  void export_both(bool rotated) {
    fs::copy(fixture("models/fixtures") / GetParam(), model_);
    write_text(model_);
    const Json json = read_json_file(model_ / "config.json");
    MllmProfileConfig profile{.dataset_path = model_,
                              .output_path = scratch_ / "dis.json",
                              .num_samples = 2,
                              .no_bias = true,
                              .model = model_config(model_, json["model_type"])};
    profile.model.online_rotation = profile.model.random_rotate = rotated;
    profile.model.save_rotation = scratch_ / "R.bin";
    ThreadPool pool(2);
    EXPECT_EQ(profile_model(profile, false, 32, pool, silent()).samples, 2);
    MllmExportConfig config{.scale_file = scratch_ / "dis.json",
                            .output_model = scratch_ / "int8.bin",
                            .clip_threshold = 64,
                            .model = profile.model};
    config.model.random_rotate = false;
    config.model.r_path = scratch_ / "R.bin";
    const MllmInt8Report report = export_int8_model(config, silent());
    EXPECT_GT(report.linears, 0);
    config.output_model = scratch_ / "float.safetensors";
    export_rotated_model(config, silent());
  }

  const ScratchFolder scratch_;
  const fs::path model_ = scratch_ / "model";
};

TEST_P(ExportedFamily, ComputesTheSame) {
  const bool rotates = std::string(GetParam()) != "gemma2";
  export_both(rotates);
  const Checkpoint original = Checkpoint::open(model_);
  const auto reference = SafetensorsFile::open(model_ / "reference.safetensors").tensors;
  const auto ids = reference.at("ids").as<std::int32_t>();
  const std::vector<float> expected = run_graph(graph_of(original), ids);
  const Checkpoint wide = Checkpoint::open(scratch_ / "float.safetensors");
  EXPECT_LT(worst_difference(run_graph(graph_of(wide), ids), expected), 1e-4F);
  const Checkpoint narrow = Checkpoint::open(scratch_ / "int8.bin");
  const Graph graph = graph_of(narrow);
  int quantized = 0;
  for (const Node& node : graph.nodes())
    if (node.op == Op::kQuantize) ++quantized;
  EXPECT_GE(quantized, graph.layers() * 4) << "static inputs of qkv, o, gate and up, down";
  const std::int64_t width = graph.value(graph.outputs().front()).width;
  // Of random weights, with one scale a matrix, calibrated on another text than this.
  EXPECT_LT(divergence(expected, run_graph(graph, ids), width), 0.05);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, ExportedFamily,
                         ::testing::Values("llama_biased", "qwen2_window", "phi3_longrope",
                                           "chatglm", "qwen3", "gemma2"));

class ExportMllm : public ::testing::Test {
 protected:
  void SetUp() override {
    profile_ = read_activation_profile(write_profile());
    config_.output_model = scratch_ / "m.safetensors";
    config_.clip_threshold = 64;
    config_.scale_file = scratch_ / "dis.json";
  }
  // 42 Linears, one of them with outliers, and the head.
  fs::path write_profile() {
    Json sides = {{"input", 2.0}, {"output", 3.0}}, one = {{"input", 1.0}, {"output", 1.0}};
    Json json = {{"ori", Json::object()}, {"top_0_1", Json::object()}};
    for (const Node& node : graph_.nodes()) {
      if (node.op != Op::kLinear) continue;
      json["ori"][node.name] = sides;
      json["top_0_1"][node.name] = one;
    }
    json["ori"]["model.layers.1.mlp.down_proj"]["input"] = 65;
    write_text_file(scratch_ / "dis.json", json.dump());
    return scratch_ / "dis.json";
  }
  std::map<std::string, Tensor> exported() {
    report_ = export_mllm_int8(config_, profile_, demo_, graph_, graph_, silent());
    return SafetensorsFile::open(config_.output_model).tensors;
  }

  const ScratchFolder scratch_;
  const Checkpoint demo_ = Checkpoint::open(demo_dir());
  const Graph graph_ = graph_of(demo_);
  ActivationProfile profile_;
  MllmExportConfig config_;
  MllmInt8Report report_;
};

TEST_F(ExportMllm, RoundsAndTransposes) {
  const auto tensors = exported();
  const std::string module = "model.layers.2.mlp.up_proj";
  const std::vector<float> weight = demo_.tensor(module + ".weight", {768, 256}).to_floats();
  float largest = 0;
  for (const float x : weight) largest = std::max(largest, std::fabs(x));
  const float scale = tensors.at(module + ".weight.scale").to_floats()[0];
  EXPECT_EQ(scale, largest / 127);
  const Tensor& codes = tensors.at(module + ".weight");
  EXPECT_EQ(codes.shape(), (Shape{256, 768}));
  const auto values = codes.as<std::int8_t>();
  for (std::size_t row = 0; row < 768; row += 7)
    for (std::size_t column = 0; column < 256; ++column)
      ASSERT_EQ(values[column * 768 + row], std::nearbyint(weight[row * 256 + column] / scale));
  EXPECT_EQ(tensors.at("lm_head.weight").to_floats(),
            tensors.at("model.embed_tokens.weight").to_floats());
  EXPECT_EQ(tensors.at("model.layers.0.self_attn.q_proj.bias").dtype(), DType::kF32);
  EXPECT_FALSE(tensors.contains("lm_head.weight.scale"));
  EXPECT_EQ(tensors.at("lm_head.output_scale").to_floats()[0], profile_.at("lm_head").output.max);
}

// The tokenizer of a GGUF becomes a file beside the model; what is there stays.
TEST_F(ExportMllm, PutsTheTokenizerOfAGgufBeside) {
  write_gguf(scratch_ / "demo.gguf", demo_, GgmlType::kF32, silent());
  const Checkpoint gguf = Checkpoint::open(scratch_ / "demo.gguf");
  const Graph graph = graph_of(gguf);
  fs::create_directory(scratch_ / "out");
  write_text_file(scratch_ / "out/chat_template.jinja", "mine");
  export_mllm_float(scratch_ / "out/f.bin", gguf, graph, graph, silent());
  const std::string text = "Once upon a time there was a red ball.";
  EXPECT_EQ(Tokenizer::open(scratch_ / "out").encode(text),
            Tokenizer::open(demo_dir()).encode(text));
  EXPECT_EQ(read_text_file(scratch_ / "out/chat_template.jinja"), "mine");
}

TEST_F(ExportMllm, DecidesWhatIsClipped) {
  const std::string down = "model.layers.1.mlp.down_proj", up = "model.layers.1.mlp.up_proj";
  auto tensors = exported();
  EXPECT_EQ(report_.linears, 42);
  EXPECT_EQ(report_.unclipped, std::vector<std::string>{down + " input"});
  EXPECT_EQ(tensors.at(down + ".clip_input").as<std::uint8_t>()[0], 0);
  EXPECT_EQ(tensors.at(down + ".clip_output").as<std::uint8_t>()[0], 1);
  EXPECT_EQ(tensors.at(down + ".input_scale").to_floats()[0], 1);
  EXPECT_EQ(tensors.at(up + ".input_scale").to_floats()[0], 2);
  config_.clip_all = true;
  tensors = exported();
  EXPECT_TRUE(report_.unclipped.empty());
  EXPECT_EQ(tensors.at(down + ".input_scale").to_floats()[0], 65);
  config_.model.skip_layers = {up};
  tensors = exported();
  EXPECT_EQ(report_.unclipped, (std::vector<std::string>{up + " input", up + " output"}));
  EXPECT_EQ(tensors.at(up + ".input_scale").to_floats()[0], 1);
}

// Codes of biases stand for nearly the same.
TEST_F(ExportMllm, QuantizesBiases) {
  const std::string name = "model.layers.0.self_attn.k_proj.bias";
  const std::vector<float> expected = demo_.tensor(name, {128}).to_floats();
  config_.quant_bias = true;
  const auto tensors = exported();
  EXPECT_EQ(tensors.at(name).dtype(), DType::kI32);
  const float scale = tensors.at(name + ".scale").to_floats()[0];
  const std::vector<float> read =
      Checkpoint::open(config_.output_model).tensor(name, {128}).to_floats();
  EXPECT_LE(worst_difference(read, expected), scale / 2 * 1.001F);
}

TEST_F(ExportMllm, PutsWhatReadsItBesideIt) {
  exported();
  const Json config = read_json_file(scratch_ / "config.json");
  EXPECT_EQ(config["tie_word_embeddings"], false);
  EXPECT_EQ(config["model_type"], "qwen2");
  EXPECT_EQ(read_text_file(scratch_ / "tokenizer.json"),
            read_text_file(demo_dir() / "tokenizer.json"));
}

TEST_F(ExportMllm, RefusesWhatDoesNotFit) {
  profile_.erase("model.layers.3.self_attn.o_proj");
  const auto error = [&] { return error_of([&] { exported(); }); };
  EXPECT_EQ(error(), "[export] " + (scratch_ / "dis.json").string() +
                         ": model.layers.3.self_attn.o_proj is not in it: expected the profile of "
                         "this model");
  profile_ = read_activation_profile(write_profile());
  config_.output_model = scratch_ / "m.mllm";
  EXPECT_NE(error().find("tandem convert makes a .mllm of it"), std::string::npos);
  EXPECT_FALSE(fs::exists(scratch_ / "m.mllm"));
  config_.clip_threshold.reset();
  EXPECT_NE(error_of([&] { export_int8_model(config_, silent()); }).find("t01m_clip_threshold"),
            std::string::npos);
  config_.clip_all = true;
  config_.model = model_config(demo_dir(), "llama");
  EXPECT_NE(error_of([&] {
              export_int8_model(config_, silent());
            }).find("model_type: expected \"qwen2\""),
            std::string::npos);
  config_.model.model_type = "qwen2";
  config_.model.online_rotation = true;
  config_.model.r_path = scratch_ / "none.bin";
  EXPECT_NE(error_of([&] { export_int8_model(config_, silent()); }).find("none.bin"),
            std::string::npos);
}

// A Linear whose scale follows the percentile loses nothing of what lies beyond.
TEST_F(ExportMllm, OutliersAreComputedApart) {
  const CalibrationWindows windows = demo_windows(4, 64);
  const auto ids = std::span(windows.ids).last(64);
  ThreadPool pool(2);
  profile_ = profile_activations(graph_, windows, {.no_bias = true}, pool, [](int, int) {});
  for (int layer = 0; layer < 6; ++layer)
    config_.model.skip_layers.push_back(fmt::format("model.layers.{}.mlp.down_proj", layer));
  const std::vector<float> expected = run_graph(graph_, ids);
  const auto loss = [&] {
    const Graph graph = graph_of(Checkpoint::open(config_.output_model));
    return std::pair(std::ranges::count(graph.nodes(), Op::kShadowLinear, &Node::op),
                     divergence(expected, run_graph(graph, ids), 4096));
  };
  auto tensors = exported();
  const auto [shadows, apart] = loss();
  for (auto& [name, tensor] : tensors)
    if (name.ends_with(".clip_input")) {
      std::byte* data = nullptr;
      tensor = Tensor::allocate(DType::kBool, {}, &data);
      *data = std::byte{1};
    }
  write_safetensors(config_.output_model, tensors);
  const auto [none, clipped] = loss();
  EXPECT_EQ(shadows, 6);
  EXPECT_EQ(none, 0);
  EXPECT_LT(apart, 0.02);
  EXPECT_GT(clipped, 5 * apart);
}

TEST(MllmInt8, RefusesDamagedParts) {
  const ScratchFolder scratch;
  fs::copy_file(demo_dir() / "config.json", scratch / "config.json");
  const auto error = [&](const std::map<std::string, Tensor>& tensors) {
    write_safetensors(scratch / "m.safetensors", tensors);
    const Checkpoint checkpoint = Checkpoint::open(scratch / "m.safetensors");
    return error_of([&] { checkpoint.linear("a", 2, 3); });
  };
  const auto codes = [](Shape shape) {
    std::byte* data = nullptr;
    return Tensor::allocate(DType::kI8, std::move(shape), &data);
  };
  const auto scales = [](std::vector<float> values) {
    const auto size = std::ssize(values);
    return Tensor::from_floats(values, {size});
  };
  EXPECT_NE(error({{"a.weight", codes({2, 3})}, {"a.weight.scale", scales({1})}})
                .find("codes: expected [3, 2], got I8 [2, 3]"),
            std::string::npos);
  EXPECT_NE(error({{"a.weight", codes({3, 2})}, {"a.weight.scale", scales({1, 2})}})
                .find("scales: expected one"),
            std::string::npos);
  EXPECT_NE(error({{"a.weight", codes({3, 2})}, {"a.weight.scale", scales({NAN})}})
                .find("scales: expected finite numbers"),
            std::string::npos);
  write_safetensors(
      scratch / "m.safetensors",
      {{"a.weight", codes({3, 2})}, {"a.weight.scale", scales({1})}, {"a.clip_input", codes({2})}});
  const Checkpoint checkpoint = Checkpoint::open(scratch / "m.safetensors");
  EXPECT_NE(error_of([&] {
              checkpoint.has_unclipped_input("a");
            }).find("clip_input: expected one byte, got I8 [2]"),
            std::string::npos);
}

}  // namespace
}  // namespace tandem::testing
