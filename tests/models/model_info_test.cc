// Reading config.json: defaults, special tokens, and one clear error for everything that is
// invalid.
#include <gtest/gtest.h>

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "models/model.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;
using Ids = std::vector<std::int64_t>;

Json small_llama() {
  return {{"model_type", "llama"},  {"hidden_size", 64},        {"intermediate_size", 96},
          {"num_hidden_layers", 2}, {"num_attention_heads", 4}, {"num_key_value_heads", 2},
          {"vocab_size", 100},      {"eos_token_id", 7},        {"rms_norm_eps", 1e-5}};
}

ModelInfo read(const Json& config, const Json* generation = nullptr) {
  return read_model_info(JsonObject(config, "folder/config.json"), generation);
}

// The error for a configuration in which `key` has another value.
std::string reject(const char* key, const Json& value) {
  Json config = small_llama();
  config[key] = value;
  return error_of([&] { read(config); });
}

// No tensors at all: enough for configurations that are refused before any is read.
class NoWeights : public WeightSource {
 public:
  bool has(const std::string&) const override { return false; }
  Tensor tensor(const std::string& name, const Shape&) const override {
    fail(ErrorCode::kNotFound, "no tensor {}", name);
  }
  Weight linear(const std::string& module, std::int64_t, std::int64_t) const override {
    fail(ErrorCode::kNotFound, "no weight {}", module);
  }
  float input_scale(const std::string&) const override { return 0; }
};

class Warnings : public Observer {
 public:
  void warn(std::string_view message) override { messages.emplace_back(message); }
  std::vector<std::string> messages;
};

std::string reject_build(const Json& config) {
  return error_of([&] { build_graph(JsonObject(config, "folder/config.json"), NoWeights()); });
}

TEST(ModelInfo, ReadsSizes) {
  const ModelInfo info = read(small_llama());
  EXPECT_EQ(info.model_type, "llama");
  EXPECT_EQ(info.hidden_size, 64);
  EXPECT_EQ(info.intermediate_size, 96);
  EXPECT_EQ(info.layers, 2);
  EXPECT_EQ(info.heads, 4);
  EXPECT_EQ(info.kv_heads, 2);
  EXPECT_EQ(info.head_dim, 16);
  EXPECT_EQ(info.vocabulary, 100);
  EXPECT_FALSE(info.tied_head);
}

TEST(ModelInfo, DefaultsAsTransformersHasThem) {
  Json config = small_llama();
  config.erase("num_key_value_heads");
  config.erase("eos_token_id");
  ModelInfo llama = read(config);
  EXPECT_EQ(llama.kv_heads, 4);
  EXPECT_EQ(llama.context_length, 2048);
  EXPECT_EQ(llama.bos, std::optional<std::int64_t>(1));
  EXPECT_EQ(llama.eos, Ids{2});
  EXPECT_EQ(llama.pad, std::nullopt);

  config["num_key_value_heads"] = nullptr;
  config["head_dim"] = nullptr;
  config["bos_token_id"] = nullptr;
  config["eos_token_id"] = nullptr;
  llama = read(config);
  EXPECT_EQ(llama.kv_heads, 4);
  EXPECT_EQ(llama.head_dim, 16);
  EXPECT_EQ(llama.bos, std::nullopt);
  EXPECT_EQ(llama.eos, Ids{});

  config.erase("bos_token_id");
  config.erase("eos_token_id");
  config["model_type"] = "qwen2";
  const ModelInfo qwen = read(config);
  EXPECT_EQ(qwen.context_length, 32768);
  EXPECT_EQ(qwen.bos, std::nullopt);
  EXPECT_EQ(qwen.eos, Ids{});
}

TEST(ModelInfo, TakesSpecialTokensFromTheGenerationConfig) {
  Json config = small_llama();
  config["pad_token_id"] = -1;
  config["bos_token_id"] = 5;
  ModelInfo info = read(config);
  EXPECT_EQ(info.eos, Ids{7});
  EXPECT_EQ(info.bos, std::optional<std::int64_t>(5));
  EXPECT_EQ(info.pad, std::nullopt);

  const Json generation = {{"eos_token_id", {9, 8}}, {"pad_token_id", 3}};
  info = read(config, &generation);
  EXPECT_EQ(info.eos, (Ids{9, 8}));
  EXPECT_EQ(info.bos, std::optional<std::int64_t>(5));
  EXPECT_EQ(info.pad, std::optional<std::int64_t>(3));

  const Json list = Json::array();
  EXPECT_NE(error_of([&] { read(config, &list); }).find("folder/generation_config.json"),
            std::string::npos);
}

// An id that is not in the vocabulary can be neither read nor written: it says "none", however it is
// spelled, and does not stand in the way of the model.
TEST(ModelInfo, IgnoresTokensOutsideTheVocabulary) {
  const std::vector<Json> outside = {
      -1, -2, 100, 4294967295U, std::uint64_t{1} << 63, std::numeric_limits<std::uint64_t>::max()};
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
    for (const Json& id : outside) {
      Json config = small_llama();
      config[key] = id;
      Warnings warnings;
      const ModelInfo info =
          read_model_info(JsonObject(config, "folder/config.json"), nullptr, warnings);
      ASSERT_EQ(warnings.messages.size(), 1u) << key << id;
      EXPECT_EQ(warnings.messages[0],
                fmt::format("[models] folder/config.json: {}: {} is outside the vocabulary of 100: "
                            "ignored",
                            key, id.dump()));
      const std::string_view name = key;
      EXPECT_EQ(info.eos, name == "eos_token_id" ? Ids{} : Ids{7});
      // An id that is ignored does not bring back the family's.
      EXPECT_EQ(info.bos, name == "bos_token_id" ? std::nullopt : std::optional<std::int64_t>(1));
      EXPECT_EQ(info.pad, std::nullopt);
    }
  }
}

TEST(ModelInfo, KeepsTheTokensOfAListThatAreInTheVocabulary) {
  Json config = small_llama();
  config["eos_token_id"] = {-1, 9, 100, 8};
  config["pad_token_id"] = {100, 3};
  config["bos_token_id"] = {5};
  Warnings warnings;
  ModelInfo info = read_model_info(JsonObject(config, "config.json"), nullptr, warnings);
  EXPECT_EQ(info.eos, (Ids{9, 8}));
  EXPECT_EQ(info.pad, std::optional<std::int64_t>(3));
  EXPECT_EQ(info.bos, std::optional<std::int64_t>(5));
  EXPECT_EQ(warnings.messages.size(), 3u);

  // Nor does it take away what config.json says.
  const Json generation = {{"eos_token_id", 100}, {"pad_token_id", {2}}};
  Warnings more;
  info = read_model_info(JsonObject(config, "folder/config.json"), &generation, more);
  EXPECT_EQ(info.eos, (Ids{9, 8}));
  EXPECT_EQ(info.pad, std::optional<std::int64_t>(2));
  ASSERT_EQ(more.messages.size(), 4u);
  EXPECT_EQ(more.messages[3],
            "[models] folder/generation_config.json: eos_token_id: 100 is outside the vocabulary "
            "of 100: ignored");
}

TEST(ModelInfo, ReadsTheKeysOfChatGlm) {
  const Json config = {
      {"model_type", "chatglm"},     {"num_layers", 3},           {"hidden_size", 64},
      {"ffn_hidden_size", 96},       {"num_attention_heads", 4},  {"multi_query_attention", true},
      {"multi_query_group_num", 2},  {"kv_channels", 16},         {"padded_vocab_size", 100},
      {"seq_length", 8192},          {"layernorm_epsilon", 1e-5}, {"eos_token_id", 2},
      {"tie_word_embeddings", false}};
  const ModelInfo info = read(config);
  EXPECT_EQ(info.layers, 3);
  EXPECT_EQ(info.intermediate_size, 96);
  EXPECT_EQ(info.kv_heads, 2);
  EXPECT_EQ(info.head_dim, 16);
  EXPECT_EQ(info.vocabulary, 100);
  EXPECT_EQ(info.context_length, 8192);
  EXPECT_EQ(info.eos, std::vector<std::int64_t>{2});
}

// What transformers assumes for each family where config.json is silent.
TEST(ModelInfo, TakesTheDefaultsOfTheFamily) {
  Json config = small_llama();
  for (const char* key : {"num_key_value_heads", "head_dim", "tie_word_embeddings",
                          "max_position_embeddings", "bos_token_id", "eos_token_id"})
    config.erase(key);
  const auto of = [&](const char* type) {
    config["model_type"] = type;
    return read(config);
  };
  EXPECT_EQ(of("gemma2").head_dim, 256);
  EXPECT_TRUE(of("gemma2").tied_head);
  EXPECT_EQ(of("gemma2").context_length, 8192);
  EXPECT_EQ(of("gemma2").bos, std::optional<std::int64_t>(2));
  EXPECT_EQ(of("qwen3").head_dim, 128);
  EXPECT_FALSE(of("qwen3").tied_head);
  EXPECT_TRUE(of("smollm3").tied_head);
  EXPECT_EQ(of("smollm3").bos, std::nullopt);  // 128000 is outside this vocabulary
  EXPECT_EQ(of("phi3").context_length, 4096);
}

TEST(ModelInfo, CountsRopeScalingIntoTheContext) {
  Json config = small_llama();
  config["max_position_embeddings"] = 2048;
  config["rope_scaling"] = {{"type", "dynamic"}, {"factor", 2.0}};
  EXPECT_EQ(read(config).context_length, 4096);
  EXPECT_TRUE(read(config).open_context);
  EXPECT_GE(read(config).longest_sequence(), 1000000);
  config["rope_scaling"]["type"] = "linear";
  EXPECT_EQ(read(config).longest_sequence(), 4096);
  config.erase("rope_scaling");
  EXPECT_EQ(read(config).longest_sequence(), 2048);
}

TEST(ModelInfo, RefusesUnknownModelTypes) {
  EXPECT_EQ(reject("model_type", "mamba"),
            "[models] folder/config.json: model_type: expected one of \"chatglm\", \"gemma2\", "
            "\"llama\", \"mistral\", \"phi3\", \"qwen2\", \"qwen3\", \"smollm3\", got \"mamba\"");
  EXPECT_LT(reject("model_type", std::string(100000, 'x')).size(), 300U);
  EXPECT_EQ(supported_model_types(),
            (std::vector<std::string>{"chatglm", "gemma2", "llama", "mistral", "phi3", "qwen2",
                                      "qwen3", "smollm3"}));
  try {
    read(Json{{"model_type", "mamba"}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  }
}

TEST(ModelInfo, RefusesHostileValuesNamingFileAndKey) {
  const Json huge = std::uint64_t{18446744073709551615U};
  const std::vector<Json> hostile = {
      0, -1, huge, std::int64_t{1} << 40, 1.5, "64", Json::array(), Json::object(), Json(true)};
  for (const char* key :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size",
        "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"})
    for (const Json& value : hostile) {
      const std::string message = reject(key, value);
      EXPECT_NE(message.find("folder/config.json"), std::string::npos) << message;
      EXPECT_NE(message.find(key), std::string::npos) << value << ": " << message;
    }
  for (const char* key : {"model_type", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "vocab_size", "num_attention_heads"}) {
    Json config = small_llama();
    config.erase(key);
    const std::string message = error_of([&] { read(config); });
    EXPECT_NE(message.find(key), std::string::npos) << message;
  }
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"})
    for (const Json& value : {Json("7"), Json(1.5), Json{{"a", 1}}, Json{7, "7"}, Json{{7}}}) {
      const std::string message = reject(key, value);
      EXPECT_NE(message.find(key), std::string::npos) << message;
    }
  EXPECT_NE(reject("tie_word_embeddings", "yes").find("tie_word_embeddings"), std::string::npos);
}

TEST(ModelInfo, RefusesHeadsThatDoNotFit) {
  EXPECT_EQ(reject("num_key_value_heads", 3),
            "[models] folder/config.json: num_key_value_heads: expected a divisor of "
            "num_attention_heads = 4, got 3");
  EXPECT_EQ(reject("num_key_value_heads", 8),
            "[models] folder/config.json: num_key_value_heads: expected a divisor of "
            "num_attention_heads = 4, got 8");
  EXPECT_EQ(reject("hidden_size", 66),
            "[models] folder/config.json: head_dim: expected it to be given, as hidden_size = 66 "
            "is not a multiple of num_attention_heads = 4");
  EXPECT_EQ(reject("head_dim", 17),
            "[models] folder/config.json: head_dim: expected an even number (rotary embedding "
            "turns pairs), got 17");
}

TEST(BuildGraph, RefusesWhatItCannotCompute) {
  Json config = small_llama();
  config["hidden_act"] = "gelu";
  EXPECT_EQ(reject_build(config),
            "[models] folder/config.json: hidden_act: expected \"silu\" or \"gelu_pytorch_tanh\", "
            "got \"gelu\"");
  config = small_llama();
  for (const Json& value : {Json(-1e-5), Json(2), Json("1e-5")}) {
    config["rms_norm_eps"] = value;
    EXPECT_NE(reject_build(config).find("rms_norm_eps"), std::string::npos) << value;
  }
  config = small_llama();
  config["attention_bias"] = 1;
  EXPECT_NE(reject_build(config).find("attention_bias"), std::string::npos);
  config = small_llama();
  config["mlp_bias"] = "no";
  EXPECT_NE(reject_build(config).find("mlp_bias"), std::string::npos);
}

TEST(BuildGraph, RefusesWhatAFamilyCannotHave) {
  const auto reject_family = [](const char* type, const char* key, const Json& value) {
    Json config = small_llama();
    config["model_type"] = type;
    config[key] = value;
    const std::string message = reject_build(config);
    EXPECT_NE(message.find("folder/config.json"), std::string::npos) << message;
    EXPECT_NE(message.find(key), std::string::npos) << message;
  };
  for (const Json& value : {Json(0), Json(-1), Json("x")}) {
    reject_family("gemma2", "attn_logit_softcapping", value);
    reject_family("gemma2", "final_logit_softcapping", value);
    reject_family("gemma2", "query_pre_attn_scalar", value);
    reject_family("mistral", "sliding_window", value);
    reject_family("smollm3", "no_rope_layer_interval", value);
  }
  reject_family("smollm3", "no_rope_layers", {1, 1, 1});
  reject_family("smollm3", "no_rope_layers", {1, "x"});
  reject_family("chatglm", "multi_query_attention", false);
  reject_family("chatglm", "add_bias_linear", true);
  reject_family("chatglm", "rope_ratio", 0);
  reject_family("chatglm", "rope_ratio", "x");
}

TEST(BuildGraph, RefusesWindowsThatMakeNoSense) {
  Json config = small_llama();
  config["model_type"] = "qwen2";
  config["use_sliding_window"] = true;
  for (const Json& value : {Json(0), Json(-8), Json("8"), Json(1.5)}) {
    Json bad = config;
    bad["sliding_window"] = value;
    EXPECT_NE(reject_build(bad).find("sliding_window"), std::string::npos) << value;
    bad = config;
    bad["max_window_layers"] = value == 0 ? Json(-1) : value;
    EXPECT_NE(reject_build(bad).find("max_window_layers"), std::string::npos) << value;
  }
  Json types = config;
  for (const Json& value :
       {Json("full_attention"), Json::array({"full_attention"}),
        Json::array({"full_attention", "chunked_attention"}), Json::array({"full_attention", 3})}) {
    types["layer_types"] = value;
    EXPECT_NE(reject_build(types).find("layer_types"), std::string::npos) << value;
  }
  types["layer_types"] = {"full_attention", "sliding_attention"};
  types["use_sliding_window"] = false;
  EXPECT_NE(reject_build(types).find("layer 1 is \"sliding_attention\""), std::string::npos);
}

}  // namespace
}  // namespace tandem
