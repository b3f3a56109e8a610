// tandem convert to GGUF: the file is the same model, or there is none.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "checkpoint/safetensors.h"
#include "cli/program.h"
#include "support.h"

namespace tandem {
namespace {

using testing::expect_refusal;
using testing::names_in;
using testing::Outcome;
using testing::run_program;
using testing::ScratchFolder;
using testing::write_bytes;

using Words = std::vector<std::string>;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// A tiny model of one of the families, with changes.
class SameModel : public ::testing::Test {
 protected:
  void use(const std::string& name) {
    fs::remove_all(model_);
    fs::copy(testing::fixture("models/fixtures/" + name), model_);
    config_ = read_json_file(model_ / "config.json");
    Json vocabulary = Json::object();
    for (std::int64_t i = 0; i < config_["vocab_size"].get<std::int64_t>(); ++i)
      vocabulary[fmt::format("t{}", i)] = i;
    tokenizer_ = {{"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}},
                  {"pre_tokenizer",
                   {{"type", "ByteLevel"}, {"use_regex", true}, {"add_prefix_space", false}}}};
    write();
  }
  void write() {
    write_bytes(model_ / "config.json", config_.dump());
    write_bytes(model_ / "tokenizer.json", tokenizer_.dump());
  }
  // Adds a tensor of the value to the weights, or replaces one.
  void put(const std::string& name, const Shape& shape, float value) {
    std::map<std::string, Tensor> tensors =
        SafetensorsFile::open(model_ / "model.safetensors").tensors;
    tensors[name] = Tensor::from_floats(
        std::vector<float>(static_cast<std::size_t>(element_count(shape)), value), shape);
    std::vector<SafetensorsWriter::Entry> entries;
    for (const auto& [key, tensor] : tensors)
      if (size_of(tensor.dtype()) == 4) entries.push_back({key, tensor.dtype(), tensor.shape()});
    for (const auto& [key, tensor] : tensors)
      if (size_of(tensor.dtype()) == 2) entries.push_back({key, tensor.dtype(), tensor.shape()});
    SafetensorsWriter writer(folder_ / "new.safetensors", entries, {});
    for (const auto& entry : entries) writer.write(entry.name, tensors.at(entry.name).bytes());
    writer.finish();
    tensors.clear();
    fs::rename(folder_ / "new.safetensors", model_ / "model.safetensors");
  }

  Outcome convert(const std::string& type = "f32") const {
    return run_program({"convert", model_.string(), gguf_, "--dtype", type});
  }
  std::vector<float> logits(const std::string& model) const {
    const std::string out = (folder_ / "logits.safetensors").string();
    const Outcome outcome =
        run_program({"logits", model, "--ids", "1,2,3,40,50,60", "-o", out, "--no-cache"});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return SafetensorsFile::open(out).tensors.begin()->second.to_floats();
  }
  void expect_same_logits() const {
    const std::vector<float> want = logits(model_.string());
    const std::vector<float> got = logits(gguf_);
    ASSERT_EQ(got.size(), want.size());
    float most = 0;
    for (std::size_t i = 0; i < want.size(); ++i) most = std::max(most, std::abs(got[i] - want[i]));
    EXPECT_LT(most, 1e-4F);
  }
  void expect_same_model() const {
    const Outcome outcome = convert();
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    expect_same_logits();
  }
  // A file of that name that was there stays.
  void expect_refused(const std::string& part) const {
    write_bytes(gguf_, "older");
    const Outcome outcome = convert();
    EXPECT_EQ(outcome.status, 2);
    EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err;
    EXPECT_EQ(read_text_file(gguf_), "older");
    EXPECT_EQ(names_in(folder_.path()), (Words{"m.gguf", "model"}));
  }

  ScratchFolder folder_;
  fs::path model_ = folder_ / "model";
  std::string gguf_ = (folder_ / "m.gguf").string();
  Json config_, tokenizer_;
};

TEST_F(SameModel, LeavesOutWhatTheGraphDoesNotRead) {
  use("llama_yarn");
  for (const auto& [part, size] : {std::pair{"q", 48}, {"k", 24}, {"v", 24}, {"o", 48}})
    put(fmt::format("model.layers.0.self_attn.{}_proj.bias", part), {size}, 3);
  put("model.layers.7.self_attn.q_proj.weight", {48, 48}, 1);
  put("model.norm.bias", {48}, 1);
  const Outcome outcome = convert();
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("tensors are left out"), std::string::npos) << outcome.err;
  expect_same_logits();
}

TEST_F(SameModel, KeepsSettingsOfTheFormat) {
  for (const char* name : {"llama_yarn", "llama_rope", "qwen3"}) {
    use(name);
    expect_same_model();
  }
  use("llama_yarn");
  config_["rope_parameters"]["beta_slow"] = 2.0;
  config_["rope_parameters"]["attention_factor"] = 1.375;
  write();
  expect_same_model();
  use("llama_yarn");
  config_["partial_rotary_factor"] = 0.5;
  config_["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 100.0}};
  write();
  expect_same_model();
  // Heads that make up the hidden size, in a family whose default is another.
  use("qwen3");
  config_["head_dim"] = 16;
  write();
  for (const int layer : {0, 1}) {
    const std::string prefix = fmt::format("model.layers.{}.self_attn.", layer);
    for (const auto& [part, rows] : {std::pair{"q", 64}, {"k", 32}, {"v", 32}, {"o", 64}})
      put(prefix + part + "_proj.weight", {rows, 64}, 0.01F);
    for (const char* part : {"q", "k"}) put(prefix + part + "_norm.weight", {16}, 1);
  }
  expect_same_model();
}

TEST_F(SameModel, RefusesSettingsWithoutAForm) {
  use("llama_yarn");
  config_["hidden_act"] = "gelu_pytorch_tanh";
  write();
  expect_refused("GGUF has no form for this model: model.layers.0");
  use("gemma2");
  config_["query_pre_attn_scalar"] = config_["head_dim"];
  config_["final_logit_softcapping"] = nullptr;
  write();
  expect_refused("GGUF has no form for this model");
  config_ = read_json_file(testing::fixture("models/fixtures/gemma2/config.json"));
  config_["query_pre_attn_scalar"] = config_["head_dim"];
  config_["attn_logit_softcapping"] = nullptr;
  write();
  expect_refused("softcap");
}

TEST_F(SameModel, RefusesWeightsThatAreNoNumbers) {
  use("llama_yarn");
  put("model.layers.1.input_layernorm.weight", {48}, kNan);
  expect_refused("model.layers.1.input_layernorm.weight: element 0: expected a finite number");
  for (const char* output : {"x.mllm", "x.safetensors", "x"}) {
    expect_refusal({"convert", model_.string(), (folder_ / output).string()},
                   {"model.layers.1.input_layernorm.weight", "finite"});
    EXPECT_FALSE(fs::exists(folder_ / output));
  }
  // So does whatever reads the model.
  for (const Words& command : {Words{"run", model_.string(), "-p", "a", "-n", "2", "--raw"},
                               {"logits", model_.string(), "--ids", "1,2", "-o", "l.safetensors"},
                               {"bench", model_.string(), "-p", "8", "-g", "2"}})
    expect_refusal(command, {"model.layers.1.input_layernorm.weight: element 0"});
}

TEST_F(SameModel, SaysThatTheTokenizerDiffers) {
  use("llama_yarn");
  Json& vocabulary = tokenizer_["model"]["vocab"];
  vocabulary.erase("t7");
  vocabulary.erase("t8");
  vocabulary["\u0120"] = 7;  // a space
  vocabulary["a"] = 8;
  write();
  EXPECT_EQ(convert().err.find("splits some texts"), std::string::npos);
  tokenizer_["added_tokens"] = {{{"id", 5},
                                 {"content", "t5"},
                                 {"special", true},
                                 {"lstrip", true},
                                 {"rstrip", true},
                                 {"single_word", false},
                                 {"normalized", false}}};
  write();
  EXPECT_NE(convert().err.find("splits some texts"), std::string::npos);
}

}  // namespace
}  // namespace tandem
