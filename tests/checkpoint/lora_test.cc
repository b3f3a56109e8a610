// LoRA adapters merged into a checkpoint's tensors, and adapters that can't be.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "checkpoint/adapter_files.h"
#include "checkpoint/checkpoint.h"

namespace tandem {
namespace {

using testing::AdapterFiles;
using testing::error_of;
using testing::fixture;
using testing::random_tensor;
using testing::ScratchFolder;

constexpr const char* kQuery = "model.layers.0.self_attn.q_proj";
constexpr const char* kOutput = "model.layers.0.self_attn.o_proj";
constexpr const char* kTable = "model.embed_tokens";

class LoraTest : public ::testing::Test {
 protected:
  LoraTest() {
    fs::create_directory(base_);
    write_text_file(base_ / "config.json",
                    R"({"model_type":"llama","vocab_size":6,"tie_word_embeddings":true})");
    write_safetensors(base_ / "model.safetensors",
                      {{"model.embed_tokens.weight", random_tensor({6, 4}, 11).to_f16()},
                       {std::string(kQuery) + ".weight", random_tensor({8, 4}, 12)},
                       {std::string(kQuery) + ".bias", random_tensor({8}, 13)},
                       {std::string(kOutput) + ".weight", random_tensor({4, 8}, 14).to_f16()},
                       {"model.norm.weight", random_tensor({4}, 15)}});
    files_.add(kQuery, 8, 4);
  }

  Checkpoint merge() const {
    files_.write(adapter_);
    Checkpoint checkpoint = Checkpoint::open(base_);
    checkpoint.merge_lora(adapter_);
    return checkpoint;
  }

  // The one message names the file and says each of the parts.
  void expect_refusal(const fs::path& file, const std::vector<std::string>& parts) const {
    const std::string message = error_of([&] { merge(); });
    EXPECT_TRUE(message.starts_with("[")) << message;
    EXPECT_NE(message.find(file.string()), std::string::npos) << message;
    for (const std::string& part : parts)
      EXPECT_NE(message.find(part), std::string::npos) << message << "\nlacks: " << part;
  }
  void expect_bad_tensors(const std::vector<std::string>& parts) const {
    expect_refusal(adapter_ / "adapter_model.safetensors", parts);
  }
  void expect_bad_config(const std::vector<std::string>& parts) const {
    expect_refusal(adapter_ / "adapter_config.json", parts);
  }

  Tensor& factor(const std::string& part) {
    return files_.tensors.at(std::string(kQuery) + "." + part + ".weight");
  }

  ScratchFolder scratch_;
  fs::path base_ = scratch_ / "base";
  fs::path adapter_ = scratch_ / "adapter";
  AdapterFiles files_;
};

// alpha / r of `module`, as it shows in the weight.
double scale_of(const Checkpoint& merged, const fs::path& base, const AdapterFiles& files,
                const std::string& module) {
  const Shape shape = merged.tensors().at(module + ".weight").shape;
  const float changed = dequantize_rows(merged.linear(module, shape[0], shape[1]), 0, 1)[0];
  const float before = Checkpoint::open(base).load(module + ".weight").to_floats()[0];
  const Tensor a = files.tensors.at(module + ".lora_A.weight");
  const Tensor b = files.tensors.at(module + ".lora_B.weight");
  double product = 0;
  for (std::int64_t i = 0; i < a.dim(0); ++i)
    product += static_cast<double>(a.as<float>()[static_cast<std::size_t>(i * a.dim(1))]) *
               b.as<float>()[static_cast<std::size_t>(i)];
  return (changed - before) / product;
}

TEST_F(LoraTest, ScalesAreThoseOfTheFirstPatternThatMatches) {
  const auto scale = [&] { return scale_of(merge(), base_, files_, kQuery); };
  EXPECT_NEAR(scale(), 1.5, 1e-4);
  files_.config["use_rslora"] = true;
  EXPECT_NEAR(scale(), 3 / std::sqrt(2.0), 1e-4);
  files_.config["use_rslora"] = false;
  // PEFT: re.match(rf"(.*\.)?({key})$", module).
  const std::pair<const char*, double> cases[] = {{R"({"q_proj": 8})", 4},
                                                  {R"({"self_attn.q_proj": 8})", 4},
                                                  {R"({"^model.layers.0.self_attn.q_proj": 8})", 4},
                                                  {R"({"layers\\.[0-3]\\..*q_proj": 8})", 4},
                                                  {R"({"k_proj|q_proj": 8})", 4},
                                                  {R"({"_proj": 8})", 1.5},
                                                  {R"({"q_pro": 8})", 1.5},
                                                  {R"({"^self_attn.q_proj": 8})", 1.5},
                                                  {R"({"self_attn": 8})", 1.5},
                                                  {R"({"k_proj": 8})", 1.5},
                                                  {R"({".*q_proj": 2, "q_proj": 8})", 1},
                                                  {R"({"q_proj": 8, ".*q_proj": 2})", 4},
                                                  {R"({})", 1.5},
                                                  {R"(null)", 1.5}};
  for (const auto& [pattern, expected] : cases) {
    files_.write(adapter_);
    std::string config = files_.config.dump();
    config.insert(config.size() - 1, std::string(R"(,"alpha_pattern":)") + pattern);
    write_text_file(adapter_ / "adapter_config.json", config);
    Checkpoint checkpoint = Checkpoint::open(base_);
    checkpoint.merge_lora(adapter_);
    EXPECT_NEAR(scale_of(checkpoint, base_, files_, kQuery), expected, 1e-3) << pattern;
  }
}

TEST_F(LoraTest, RanksMayDiffer) {
  files_.add(kOutput, 4, 8, 3);
  files_.config["rank_pattern"] = {{"o_proj", 3}};
  const Checkpoint checkpoint = merge();
  EXPECT_NEAR(scale_of(checkpoint, base_, files_, kOutput), 1, 2e-2);
  EXPECT_NEAR(scale_of(checkpoint, base_, files_, kQuery), 1.5, 1e-4);
}

TEST_F(LoraTest, AFileStandsForItsFolder) {
  files_.write(adapter_);
  Checkpoint checkpoint = Checkpoint::open(base_);
  checkpoint.merge_lora(adapter_ / "adapter_model.safetensors");
  EXPECT_NEAR(scale_of(checkpoint, base_, files_, kQuery), 1.5, 1e-4);
}

// What is needed at once has the type of the checkpoint's tensor.
TEST_F(LoraTest, ATableKeepsItsType) {
  files_.tensors[std::string(kTable) + ".lora_embedding_A"] = random_tensor({2, 6}, 3);
  files_.tensors[std::string(kTable) + ".lora_embedding_B"] = random_tensor({4, 2}, 4);
  const Checkpoint checkpoint = merge();
  const Tensor table = checkpoint.tensor("model.embed_tokens.weight", {6, 4});
  EXPECT_EQ(table.dtype(), DType::kF16);
  const Tensor before = Checkpoint::open(base_).load("model.embed_tokens.weight");
  const std::vector<float> a = random_tensor({2, 6}, 3).to_floats();
  const std::vector<float> b = random_tensor({4, 2}, 4).to_floats();
  for (std::size_t v = 0; v < 6; ++v)
    for (std::size_t d = 0; d < 4; ++d)
      EXPECT_NEAR(
          table.to_floats()[v * 4 + d],
          before.to_floats()[v * 4 + d] + 1.5F * (a[v] * b[d * 2] + a[6 + v] * b[d * 2 + 1]),
          1e-4F);
  // The head is the table that it was.
  EXPECT_EQ(dequantize_rows(checkpoint.linear("lm_head", 6, 4), 0, 6), before.to_floats());
  files_.config["ensure_weight_tying"] = true;
  EXPECT_FALSE(merge().has("lm_head.weight"));
}

TEST_F(LoraTest, TensorsMayHaveTheNamesOfWrappers) {
  files_.tensors["model.norm.modules_to_save.default.weight"] = random_tensor({4}, 5);
  files_.tensors["model.norm.original_module.weight"] = random_tensor({4}, 6);
  files_.tensors[std::string(kQuery) + ".base_layer.bias"] = random_tensor({8}, 7);
  const Checkpoint checkpoint = merge();
  EXPECT_EQ(checkpoint.load("model.norm.weight").to_floats(), random_tensor({4}, 5).to_floats());
  EXPECT_EQ(checkpoint.load(std::string(kQuery) + ".bias").to_floats(),
            random_tensor({8}, 7).to_floats());
  EXPECT_EQ(checkpoint.file_of("model.norm.weight"), adapter_ / "adapter_model.safetensors");
  EXPECT_EQ(checkpoint.file_of("model.embed_tokens.weight"), base_ / "model.safetensors");
}

TEST_F(LoraTest, ATokenizerOfTheAdapterIsUsed) {
  EXPECT_EQ(merge().text_path(), base_);
  write_text_file(adapter_ / "tokenizer_config.json", "{}");
  EXPECT_EQ(merge().text_path(), base_);
  write_text_file(adapter_ / "tokenizer.json", "{}");
  EXPECT_EQ(merge().text_path(), adapter_);
}

TEST_F(LoraTest, RefusesOtherKindsOfAdapters) {
  const auto config = files_.config;
  const auto refused = [&](const char* key, const Json& value, const std::string& reason) {
    files_.config = config;
    files_.config[key] = value;
    expect_bad_config({key, reason});
  };
  refused("peft_type", "LOHA", "expected \"LORA\", got \"LOHA\"");
  refused("layer_replication", Json::parse("[[0,4],[2,5]]"), "is not merged here: expected null");
  refused("target_parameters", Json::parse(R"(["mlp.experts.gate_up_proj"])"), "expected null");
  refused("trainable_token_indices", Json::parse("[1,2]"), "expected null");
  refused("use_qalora", true, "expected null");
  refused("alora_invocation_tokens", Json::parse("[5]"), "expected null");
  refused("init_lora_weights", "pissa_niter_16", "path_initial_model_for_weight_conversion");
  refused("init_lora_weights", "olora", "path_initial_model_for_weight_conversion");
  files_.config = config;
  files_.config["use_qalora"] = false;
  files_.config["layer_replication"] = Json::array();
  files_.config["init_lora_weights"] = "gaussian";
  EXPECT_NO_THROW(merge());
}

TEST_F(LoraTest, RefusesBadSettings) {
  const auto config = files_.config;
  const auto refused = [&](const char* key, const Json& value, const std::string& reason) {
    files_.config = config;
    files_.config[key] = value;
    expect_bad_config({key, reason});
  };
  refused("r", 0, "expected an integer in [1, 65536]");
  refused("r", "4", "expected an integer");
  refused("lora_alpha", nullptr, "missing");
  refused("lora_alpha", "x", "expected a number");
  refused("use_dora", 3, "expected");
  refused("rank_pattern", Json::array(), "expected an object");
  refused("rank_pattern", {{"q_proj", 2.5}}, "q_proj: expected an integer in [1, 65536], got 2.5");
  refused("alpha_pattern", {{"q_proj", "2"}}, "q_proj: expected a finite number");
  refused("alpha_pattern", {{"q_(proj", 2}}, "expected a regular expression for names of modules");
  refused("alpha_pattern", {{std::string(5000, 'q'), 2}}, "expected at most 4096 bytes, got 5000");
  // Backtracks for longer than anyone waits.
  const std::string module = "model." + std::string(60, 'a') + "b";
  files_.add(module, 4, 4);
  refused("alpha_pattern", {{"(a+a+)+[cd]", 2}}, "match limit exceeded");
  files_.config = Json::array();
  expect_bad_config({"expected an object"});
  write_text_file(adapter_ / "adapter_config.json", R"({"peft_type":"LORA","r":2)");
  EXPECT_NE(error_of([&] { Checkpoint::open(base_).merge_lora(adapter_); }).find("line 1"),
            std::string::npos);
}

TEST_F(LoraTest, RefusesBadFactors) {
  const AdapterFiles good = files_;
  const std::string a = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
  factor("lora_A") = random_tensor({3, 4}, 1);
  expect_bad_tensors({a, "expected the rank 2 of adapter_config.json in dimension 0, got 3"});
  files_ = good;
  factor("lora_B") = random_tensor({2, 8}, 1);
  expect_bad_tensors({"lora_B.weight", "in dimension 1, got 8"});
  files_ = good;
  factor("lora_A") = random_tensor({2, 5}, 1);
  expect_bad_tensors({kQuery, "expected [8, 4] as in the checkpoint", "got [8, 5]"});
  files_ = good;
  factor("lora_A") = random_tensor({8}, 1);
  expect_bad_tensors({a, "expected a matrix, got [8]"});
  files_ = good;
  files_.tensors.erase(std::string(kQuery) + ".lora_A.weight");
  expect_bad_tensors({kQuery, "lora_A is missing"});
  files_ = good;
  files_.tensors.erase(std::string(kQuery) + ".lora_B.weight");
  expect_bad_tensors({kQuery, "lora_B is missing"});
  files_ = good;
  for (const float bad : {NAN, INFINITY}) {
    std::vector<float> values(8, 1);
    values[5] = bad;
    factor("lora_A") = Tensor::from_floats(values, {2, 4});
    expect_bad_tensors({a, "element 5: expected a finite number"});
  }
  files_ = good;
  factor("lora_A") = Tensor(DType::kI32, {2, 4}, factor("lora_A").bytes(), nullptr);
  const Tensor keep = good.tensors.begin()->second;
  expect_bad_tensors({a, "expected F32, F16 or BF16, got I32"});
  files_ = good;
  files_.tensors[std::string(kQuery) + ".lora_A.other.weight"] = factor("lora_A");
  expect_bad_tensors({"another adapter changes"});
  files_.tensors.clear();
  expect_bad_tensors({"expected tensors of an adapter, got none"});
}

TEST_F(LoraTest, RefusesTensorsWithoutAPlace) {
  const AdapterFiles good = files_;
  files_.add("model.layers.7.self_attn.q_proj", 8, 4);
  expect_bad_tensors({"model.layers.7.self_attn.q_proj.weight",
                      "the checkpoint " + base_.string() + " has no tensor of this name"});
  files_ = good;
  files_.tensors["model.layers.7.input_layernorm.weight"] = random_tensor({4}, 1);
  expect_bad_tensors({"model.layers.7.input_layernorm.weight", "has no tensor of this name"});
  files_ = good;
  files_.tensors["model.norm.weight"] = random_tensor({5}, 1);
  expect_bad_tensors({"model.norm.weight", "expected [4] as in the checkpoint", "got [5]"});
  files_ = good;
  files_.tensors[std::string(kOutput) + ".lora_B.bias"] = random_tensor({4}, 1);
  files_.add(kOutput, 4, 8);
  expect_bad_tensors({std::string(kOutput) + ".bias", "has no tensor of this name"});
  files_ = good;
  files_.tensors[std::string(kQuery) + ".lora_C.weight"] = random_tensor({4}, 1);
  expect_bad_tensors({"q_proj.lora_C.weight", "has no tensor of this name"});
  files_ = good;
  files_.tensors[std::string(kQuery) + ".lora_A"] = random_tensor({4}, 1);
  expect_bad_tensors({"q_proj.lora_A", "expected the name of a tensor in PEFT"});
  files_ = good;
  files_.write(adapter_);
  write_safetensors(adapter_ / "adapter_model.safetensors", {{"q_proj.lora_A", factor("lora_A")}});
  EXPECT_NE(error_of([&] {
              Checkpoint::open(base_).merge_lora(adapter_);
            }).find("q_proj.lora_A: expected the name of a tensor in PEFT"),
            std::string::npos);
}

TEST_F(LoraTest, RefusesHalfADora) {
  const std::string vector = std::string(kQuery) + ".lora_magnitude_vector";
  files_.config["use_dora"] = true;
  expect_bad_tensors({kQuery, "lora_magnitude_vector is missing"});
  files_.tensors[vector] = random_tensor({4}, 1);
  expect_bad_tensors({vector, "expected [8], got [4]"});
  files_.tensors[vector] = random_tensor({8}, 1);
  EXPECT_NO_THROW(merge());
  files_.config["use_dora"] = false;
  expect_bad_tensors({kQuery, "has a lora_magnitude_vector"});
  files_.tensors = {{std::string(kTable) + ".lora_embedding_A", random_tensor({2, 6}, 3)},
                    {std::string(kTable) + ".lora_embedding_B", random_tensor({4, 2}, 4)},
                    {std::string(kTable) + ".lora_magnitude_vector", random_tensor({4}, 5)}};
  files_.config["use_dora"] = true;
  expect_bad_tensors({kTable, "DoRA of a table of embeddings is not merged"});
}

TEST_F(LoraTest, RefusesACheckpointOfCodes) {
  std::byte* codes = nullptr;
  const Tensor words = Tensor::allocate(DType::kI32, {4, 1}, &codes);
  std::fill_n(codes, 16, std::byte{0});
  write_safetensors(base_ / "model.safetensors",
                    {{std::string(kQuery) + ".qweight", words},
                     {std::string(kQuery) + ".scales", random_tensor({1, 8}, 1).to_f16()}});
  expect_refusal(base_, {std::string(kQuery) + ".weight",
                         "merged into F32, F16 or BF16, got quantized codes"});
  write_safetensors(base_ / "model.safetensors", {{std::string(kQuery) + ".weight", words}});
  expect_refusal(base_, {"got I32: name the float checkpoint"});
  Checkpoint gguf = Checkpoint::open(fixture("checkpoint/fixtures/v1.mllm"));
  EXPECT_NE(error_of([&] { gguf.merge_lora(adapter_); }).find("stores the shapes of its tensors"),
            std::string::npos);
}

TEST_F(LoraTest, RefusesFilesThatAreNoAdapter) {
  const auto message = [&](const fs::path& path) {
    return error_of([&] { Checkpoint::open(base_).merge_lora(path); });
  };
  EXPECT_EQ(message(scratch_ / "none"),
            "[lora] " + (scratch_ / "none").string() + ": no such file or folder");
  EXPECT_EQ(message(base_), "[lora] " + base_.string() +
                                ": expected adapter_config.json with adapter_model.safetensors or "
                                "adapter_model.bin");
  files_.write(adapter_);
  const fs::path file = adapter_ / "adapter_model.safetensors";
  const std::string whole = read_text_file(file);
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{7}, std::size_t{60}, whole.size() - 1}) {
    write_text_file(file, whole.substr(0, size));
    EXPECT_NE(message(adapter_).find(file.string()), std::string::npos) << size;
  }
  fs::rename(file, adapter_ / "adapter_model.bin");
  write_text_file(adapter_ / "adapter_model.bin", "PK\x03\x04");
  EXPECT_NE(message(adapter_).find("adapter_model.bin"), std::string::npos);
}

}  // namespace
}  // namespace tandem
