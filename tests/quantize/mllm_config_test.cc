// mllm's configuration: every key, and every check with the line that it names.
#include "quantize/mllm_config.h"

#include <gtest/gtest.h>

#include "base/json.h"
#include "support.h"

namespace tandem::testing {
namespace {

class MllmConfigTest : public ::testing::Test {
 protected:
  MllmConfig read() {
    write_text_file(file_, json_.dump(1));
    return read_mllm_config(file_);
  }
  // With one value replaced, by its JSON pointer; null: removed.
  std::string error(const std::string& pointer, const Json& value) {
    const Json before = json_;
    const Json::json_pointer at(pointer);
    if (value.is_null()) {
      json_[at.parent_pointer()].erase(at.back());
    } else {
      json_[at] = value;
    }
    const std::string message = error_of([&] { read(); });
    json_ = before;
    EXPECT_EQ(message.find("[mllm] " + file_.string() + ":"), 0U) << message;
    return message.substr(message.find(':') + 1);
  }

  const ScratchFolder scratch_;
  const fs::path file_ = scratch_ / "c.json";
  Json json_ = Json::parse(R"({
    "profile_config": {
      "dataset_path": "data/", "output_path": "dis.json", "num_samples": 2, "no_bias": true,
      "model_config": {"model_type": "qwen2", "tokenizer_name": "T", "model_name": "M",
                       "online_rotation": true, "random_rotate": true, "save_rotation": "R.bin",
                       "anything": 1}},
    "export_config": {
      "scale_file": "dis.json", "output_model": "out.bin", "t01m_clip_threshold": 64,
      "quant_bias": false, "clip_all": false,
      "model_config": {"model_type": "qwen2", "tokenizer_name": "T", "model_name": "M",
                       "online_rotation": true, "R_path": "R.bin", "skip_layers": ["a.b"]}}})");
};

TEST_F(MllmConfigTest, ReadsEveryKey) {
  const MllmConfig config = read();
  EXPECT_EQ(config.profile.dataset_path, "data/");
  EXPECT_EQ(config.profile.output_path, "dis.json");
  EXPECT_EQ(config.profile.num_samples, 2);
  EXPECT_TRUE(config.profile.no_bias);
  EXPECT_EQ(config.profile.model.model_type, "qwen2");
  EXPECT_EQ(config.profile.model.tokenizer_name, "T");
  EXPECT_EQ(config.profile.model.model_name, "M");
  EXPECT_TRUE(config.profile.model.online_rotation);
  EXPECT_TRUE(config.profile.model.random_rotate);
  EXPECT_EQ(config.profile.model.save_rotation, "R.bin");
  EXPECT_EQ(config.export_model.scale_file, "dis.json");
  EXPECT_EQ(config.export_model.output_model, "out.bin");
  EXPECT_EQ(config.export_model.clip_threshold, 64);
  EXPECT_FALSE(config.export_model.quant_bias);
  EXPECT_FALSE(config.export_model.clip_all);
  EXPECT_EQ(config.export_model.model.r_path, "R.bin");
  EXPECT_EQ(config.export_model.model.skip_layers, std::vector<std::string>{"a.b"});
}

TEST_F(MllmConfigTest, HasDefaults) {
  for (const char* key : {"t01m_clip_threshold", "quant_bias", "clip_all"})
    json_["export_config"].erase(key);
  for (const char* key : {"online_rotation", "random_rotate", "save_rotation"})
    json_["profile_config"]["model_config"].erase(key);
  const MllmConfig config = read();
  EXPECT_FALSE(config.export_model.clip_threshold);
  EXPECT_FALSE(config.export_model.quant_bias || config.export_model.clip_all);
  EXPECT_FALSE(config.profile.model.online_rotation || config.profile.model.random_rotate);
}

TEST_F(MllmConfigTest, NamesKeyAndLine) {
  EXPECT_NE(error("/profile_config", nullptr).find("expected a key \"profile_config\""),
            std::string::npos);
  EXPECT_NE(error("/profile_config/num_samples", 1)
                .find("profile_config.num_samples: expected an integer in [2, 1048576], got 1"),
            std::string::npos);
  EXPECT_NE(error("/profile_config/no_bias", "yes")
                .find("profile_config.no_bias: expected true or false, got \"yes\""),
            std::string::npos);
  EXPECT_NE(error("/profile_config/datasets", "x").find("profile_config.datasets: unknown key"),
            std::string::npos);
  EXPECT_NE(error("/export_config/output_model", nullptr).find("expected a key \"output_model\""),
            std::string::npos);
  EXPECT_NE(error("/export_config/model_config/model_name", "N")
                .find("export_config.model_config.model_name: expected \"M\" as in profile_config"),
            std::string::npos);
  EXPECT_NE(error("/export_config/quantize_vit", true).find("export_config.quantize_vit:"),
            std::string::npos);
  EXPECT_NE(error("/export_config/model_config/skip_layers", "a").find("expected a list of names"),
            std::string::npos);
  EXPECT_NE(error("/export_config/t01m_clip_threshold", 0).find("t01m_clip_threshold: expected"),
            std::string::npos);
  // Lines count from 1, as in an editor.
  EXPECT_EQ(error("/export_config/clip_all", 3).find("3: export_config.clip_all"), 0U);
}

TEST_F(MllmConfigTest, KeepsMllmsRulesForRotations) {
  EXPECT_NE(error("/profile_config/no_bias", false).find("profile_config.no_bias: expected true"),
            std::string::npos);
  EXPECT_NE(
      error("/export_config/quant_bias", true).find("export_config.quant_bias: expected false"),
      std::string::npos);
  // As in the sample configuration of mllm's guide.
  EXPECT_NE(error("/profile_config/model_config/R_path", "see explanation below")
                .find("profile_config.model_config.R_path: expected it without \"random_rotate\""),
            std::string::npos);
  EXPECT_NE(error("/export_config/model_config/random_rotate", true).find("R_path"),
            std::string::npos);
}

TEST_F(MllmConfigTest, RefusesWhatIsNoObject) {
  json_ = Json::array();
  EXPECT_NE(error_of([&] { read(); }).find(":1: configuration: expected an object"),
            std::string::npos);
  write_text_file(file_, "{");
  EXPECT_NE(error_of([&] { read_mllm_config(file_); }).find(file_.string()), std::string::npos);
}

}  // namespace
}  // namespace tandem::testing
