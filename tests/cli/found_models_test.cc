// Checkpoints as they are found in the wild, with small faults that other programs read over.
#include <gtest/gtest.h>

#include <limits>

#include "checkpoint/safetensors.h"
#include "cli/program.h"

namespace tandem {
namespace {

using testing::demo;
using testing::expect_refusal;
using testing::Outcome;
using testing::run_program;
using testing::ScratchFolder;
using testing::shared_data;
using testing::write_bytes;

std::string report(const std::string& name) { return (shared_data() / "reports" / name).string(); }

// Two tokens are written; the one warning on standard error holds `warning`.
void expect_two_tokens(const std::string& model, const std::string& warning) {
  const Outcome outcome =
      run_program({"run", model, "-p", "A", "-n", "2", "--ignore-eos", "-t", "1", "--no-cache"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_FALSE(outcome.out.empty());
  const auto at = outcome.err.find("warning: " + warning);
  if (warning.empty()) {
    EXPECT_EQ(outcome.err.find("warning: "), std::string::npos) << outcome.err;
  } else {
    ASSERT_NE(at, std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find("warning: ", at + 1), std::string::npos) << outcome.err;
  }
}

TEST(FoundModels, EndTokenOutsideTheVocabulary) {
  TANDEM_REQUIRE_SHARED("reports/config_eos_id_out_of_vocabulary");
  const std::string model = report("config_eos_id_out_of_vocabulary");
  expect_two_tokens(model, "[models] " + model + "/config.json: eos_token_id: ");
}

TEST(FoundModels, PaddingTokenOutsideTheVocabularyOfAGguf) {
  TANDEM_REQUIRE_SHARED("reports/gguf_pad_id_minus_one");
  const std::string model = report("gguf_pad_id_minus_one") + "/model.gguf";
  expect_two_tokens(model, "[models] " + model + ": pad_token_id: 4294967295 is outside");
}

TEST(FoundModels, NumbersOfPythonsKind) {
  TANDEM_REQUIRE_SHARED("reports/config_infinity");
  expect_two_tokens(report("config_infinity"), "");
  // A key that is needed is refused by name.
  const ScratchFolder folder;
  fs::copy(report("config_infinity"), folder / "model");
  Json config = read_json_file(folder / "model/config.json");
  config["rms_norm_eps"] = nullptr;
  std::string text = config.dump();
  text.replace(text.find("\"rms_norm_eps\":null"), 19, "\"rms_norm_eps\":-Infinity");
  fs::remove(folder / "model/config.json");
  write_bytes(folder / "model/config.json", text);
  expect_refusal({"run", (folder / "model").string(), "-p", "A"},
                 {"config.json: rms_norm_eps: expected a finite number, got -Infinity"});
}

TEST(FoundModels, TensorOfAnUnknownTypeThatNothingNeeds) {
  TANDEM_REQUIRE_SHARED("reports/unused_f8_tensor");
  expect_two_tokens(report("unused_f8_tensor"), "");
}

// The logits of `model` for the tokens in a file, computed by way of a file in `folder`.
std::vector<float> logits_of(const fs::path& model, const fs::path& ids,
                             const ScratchFolder& folder) {
  const std::string output = (folder / "logits.safetensors").string();
  const Outcome outcome = run_program(
      {"logits", model.string(), "--ids", ids.string(), "-o", output, "--no-cache", "-t", "1"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  return outcome.status == 0 ? SafetensorsFile::open(output).tensors.at("logits").to_floats()
                             : std::vector<float>();
}

TEST(FoundModels, HeadOfItsOwnInATiedModel) {
  TANDEM_REQUIRE_SHARED("reports/gguf_drops_untied_head");
  const ScratchFolder folder;
  const fs::path model = report("gguf_drops_untied_head");
  for (const char* name : {"a.gguf", "a.mllm", "a.safetensors", "a"}) {
    const std::string output = (folder / name).string();
    const Outcome outcome =
        run_program({"convert", "--input_model", model.string(), "--output_model", output,
                     "--dtype", "f32", "--config", (model / "config.json").string()});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(outcome.err.find("left out"), std::string::npos) << outcome.err;
    if (fs::path(name).extension() == ".mllm")
      fs::copy_file(model / "config.json", folder / "config.json");
    EXPECT_EQ(logits_of(output, model / "ids.json", folder),
              logits_of(model, model / "ids.json", folder))
        << name;
  }
}

TEST(FoundModels, ZeroPointsOfTheOtherVersionOfGptq) {
  TANDEM_REQUIRE_SHARED("reports/gptq_sym_zeros_contradict");
  const ScratchFolder folder;
  const fs::path model = report("gptq_sym_zeros_contradict");
  fs::copy(model, folder / "v2");
  Json config = read_json_file(model / "config.json");
  config["quantization_config"]["checkpoint_format"] = "gptq_v2";
  config["quantization_config"]["sym"] = false;
  fs::remove(folder / "v2/config.json");
  write_bytes(folder / "v2/config.json", config.dump());
  EXPECT_EQ(logits_of(model, model / "ids.json", folder),
            logits_of(folder / "v2", model / "ids.json", folder));
}

class BadNumbers : public ::testing::TestWithParam<const char*> {
 protected:
  // The demo with one number of a tensor replaced.
  void SetUp() override {
    fs::copy(demo(), folder_ / "model");
    auto tensors = SafetensorsFile::open(fs::path(demo()) / "model.safetensors").tensors;
    Tensor& tensor = tensors.at(GetParam());
    std::vector<float> values = tensor.to_floats();
    values[7] = std::numeric_limits<float>::quiet_NaN();
    tensor = Tensor::from_floats(values, tensor.shape());
    fs::remove(folder_ / "model/model.safetensors");
    write_safetensors(folder_ / "model/model.safetensors", tensors);
    write_bytes(folder_ / "ids.json", "[7, 7]");
  }

  const ScratchFolder folder_;
  const std::string model_ = (folder_ / "model").string();
};

TEST_P(BadNumbers, AreRefusedByQuantizeWithTensorAndFile) {
  const std::string output = (folder_ / "package").string();
  expect_refusal({"-q", "quantize", model_, "-o", output, "--calib", demo() + "/calibration.txt"},
                 {model_ + "/model.safetensors: " + GetParam() + ": element [",
                  "expected a finite number, got nan"});
  EXPECT_FALSE(fs::exists(output));
}

TEST_P(BadNumbers, AreRefusedByEveryCommandThatReads) {
  if (std::string_view(GetParam()) == "model.embed_tokens.weight") return;
  const std::string text = demo() + "/eval_stories.txt";
  const std::string output = (folder_ / "logits.safetensors").string();
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"run", model_, "-p", "Once"},
        {"eval", model_, "--text", text, "--max-windows", "1"},
        {"eval", demo(), "--text", text, "--max-windows", "1", "--against", model_},
        {"bench", model_, "-p", "4", "-g", "1", "-r", "1"},
        {"compare", model_, testing::demo_package(), "--text", text, "--max-windows", "1", "-p",
         "4"},
        {"logits", model_, "--ids", (folder_ / "ids.json").string(), "-o", output}}) {
    std::vector<std::string> quiet = words;
    quiet.insert(quiet.begin(), "-q");
    expect_refusal(quiet, {"[model] " + model_ + ": expected finite logits, got NaN or infinity"});
  }
  EXPECT_FALSE(fs::exists(output));
}

INSTANTIATE_TEST_SUITE_P(Tensors, BadNumbers,
                         ::testing::Values("model.norm.weight", "model.embed_tokens.weight",
                                           "model.layers.0.self_attn.q_proj.bias",
                                           "model.layers.2.mlp.down_proj.weight"));

// What the model is not made of may hold anything.
TEST(FoundModels, QuantizeSaysWhatIsLeftOut) {
  const ScratchFolder folder;
  fs::copy(demo(), folder / "model");
  auto tensors = SafetensorsFile::open(fs::path(demo()) / "model.safetensors").tensors;
  tensors["extra.weight"] =
      Tensor::from_floats(std::vector{std::numeric_limits<float>::quiet_NaN()}, {1});
  fs::remove(folder / "model/model.safetensors");
  write_safetensors(folder / "model/model.safetensors", tensors);
  const std::string model = (folder / "model").string();
  const Outcome outcome =
      run_program({"quantize", model, "-o", (folder / "package").string(), "--calib",
                   demo() + "/calibration.txt", "--samples", "1", "--seq-len", "16"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("warning: [quantize] " + model +
                             ": 1 of its tensors are left out, being no part of the model: "
                             "extra.weight\n"),
            std::string::npos)
      << outcome.err;
}

}  // namespace
}  // namespace tandem
