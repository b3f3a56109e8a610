// Checkpoints as they are found in the wild, with small faults that other programs read over.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <limits>

#include "checkpoint/safetensors.h"
#include "cli/program.h"

namespace tandem {
namespace {

using testing::demo;
using testing::expect_refusal;
using testing::Outcome;
using testing::run_for_json;
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

constexpr const char* kPointer =
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 12345\n";

// Where Git LFS fetched nothing, whichever file it is that is read first.
TEST(FoundModels, GitLfsPointers) {
  const ScratchFolder folder;
  const std::string says =
      ": is a Git LFS pointer, not the file that it stands for: fetch that "
      "with git lfs pull";
  for (const char* name : {"config.json", "generation_config.json", "model.safetensors",
                           "tokenizer.json", "tokenizer_config.json"}) {
    const fs::path model = folder / "model";
    fs::remove_all(model);
    fs::copy(demo(), model);
    fs::remove(model / name);
    write_bytes(model / name, kPointer);
    expect_refusal({"run", model.string(), "--chat", "-p", "A"}, {(model / name).string() + says});
  }
  for (const char* name :
       {"model.gguf", "model.bin", "model.mllm", "model.safetensors", "tokenizer.model"}) {
    write_bytes(folder / name, kPointer);
    const std::string file = (folder / name).string();
    const char* command = std::string_view(name) == "tokenizer.model" ? "tokenize" : "run";
    expect_refusal({command, file, "-p", "A"}, {file + says});
  }
  for (const char* name : {"pytorch_model.bin", "model.gguf", "model.mllm",
                           "model.safetensors.index.json", "pytorch_model.bin.index.json"}) {
    const fs::path model = folder / "other";
    fs::remove_all(model);
    fs::create_directory(model);
    fs::copy_file(fs::path(demo()) / "config.json", model / "config.json");
    write_bytes(model / name, kPointer);
    expect_refusal({"run", model.string(), "-p", "A"}, {(model / name).string() + says});
  }
  // A file of a package.
  fs::copy(testing::demo_package(), folder / "package");
  fs::remove(folder / "package/decode.safetensors");
  write_bytes(folder / "package/decode.safetensors", kPointer);
  expect_refusal({"run", (folder / "package").string(), "-p", "A"}, {"decode.safetensors" + says});
}

TEST(FoundModels, GitLfsPointerOfTheReport) {
  TANDEM_REQUIRE_SHARED("reports/git_lfs_pointer");
  expect_refusal({"run", report("git_lfs_pointer"), "-p", "A"},
                 {"model.safetensors: is a Git LFS pointer"});
}

// The commands that want a checkpoint, all with the same refusal.
void expect_no_checkpoint(const ScratchFolder& folder, const std::string& model,
                          const std::string& reason, bool run = true) {
  std::vector<std::vector<std::string>> commands = {
      {"quantize", model, "-o", (folder / "out").string()},
      {"convert", "--input_model", model, "--output_model", (folder / "out.gguf").string()}};
  if (run) {
    commands.push_back({"run", model, "-p", "A"});
    commands.push_back({"inspect", model});
    commands.push_back({"bench", model});
  }
  for (const std::vector<std::string>& words : commands)
    expect_refusal(words, {model + ": " + reason});
  EXPECT_FALSE(fs::exists(folder / "out"));
  EXPECT_FALSE(fs::exists(folder / "out.gguf"));
}

TEST(FoundModels, AnAdapterIsNoModel) {
  const ScratchFolder folder;
  const std::string says =
      "is a LoRA adapter, expected a whole model: merge it into its base model";
  for (const char* weights : {"adapter_model.safetensors", "adapter_model.bin"}) {
    const fs::path adapter = folder / weights;
    fs::create_directory(adapter);
    write_bytes(adapter / "adapter_config.json",
                R"({"peft_type":"LORA","base_model_name_or_path":"org/base"})");
    fs::copy_file(fs::path(demo()) / "model.safetensors", adapter / weights);
    expect_no_checkpoint(folder, adapter.string(), says + " \"org/base\" first");
    expect_no_checkpoint(folder, (adapter / weights).string(), says + " \"org/base\" first");
  }
  write_bytes(folder / "adapter_model.bin/adapter_config.json", "[]");
  expect_no_checkpoint(folder, (folder / "adapter_model.bin").string(), says + " first");
  write_bytes(folder / "adapter_model.bin/adapter_config.json", "{");
  expect_refusal({"run", (folder / "adapter_model.bin").string(), "-p", "A"},
                 {"adapter_config.json: line 1"});
}

TEST(FoundModels, AnOnnxModelIsNoCheckpoint) {
  const ScratchFolder folder;
  const fs::path model = folder / "model";
  fs::create_directory(model);
  write_bytes(model / "config.json", "{}");
  write_bytes(model / "model.onnx", "x");
  const std::string says =
      ", whose weights are not read here: name the checkpoint that it was made from";
  expect_no_checkpoint(folder, model.string(), "is an ONNX model" + says);
  expect_no_checkpoint(folder, (model / "model.onnx").string(), "is an ONNX model" + says);
  write_bytes(model / "genai_config.json", "{}");
  expect_no_checkpoint(folder, model.string(), "is a model of ONNX Runtime GenAI" + says);
}

TEST(FoundModels, APackageIsNoCheckpointAndTheReverse) {
  const ScratchFolder folder;
  const std::string package = testing::demo_package();
  expect_no_checkpoint(folder, package, "is a tandem package, expected a checkpoint", false);
  for (const char* name : {"tandem.json", "decode.safetensors", "config.json", "graph.json"})
    expect_no_checkpoint(folder, package + "/" + name,
                         "is a file of a tandem package: name its folder, " + package);
  expect_refusal({"run", package, "-p", "A", "--mode", "float"},
                 {"mode float needs a float checkpoint; this is a package"});
  expect_refusal({"run", demo(), "-p", "A", "--mode", "hybrid"},
                 {"mode hybrid needs a package (see tandem quantize); this is a float checkpoint"});
}

TEST(FoundModels, AFileOfACheckpointThatHoldsNoWeights) {
  const ScratchFolder folder;
  for (const char* name : {"config.json", "tokenizer.json", "README.md"})
    expect_no_checkpoint(folder, demo() + "/" + name,
                         "is no file of weights: name the folder of the checkpoint, " + demo());
}

TEST(FoundModels, OneShardIsNotTheModel) {
  const ScratchFolder folder;
  const fs::path model = folder / "model";
  fs::copy(demo(), model);
  auto tensors = SafetensorsFile::open(fs::path(demo()) / "model.safetensors").tensors;
  tensors.erase("model.norm.weight");
  fs::remove(model / "model.safetensors");
  write_safetensors(model / "model-1.safetensors", tensors);
  write_bytes(model / "model.safetensors.index.json", "{}");
  expect_refusal({"run", (model / "model-1.safetensors").string(), "-p", "A"},
                 {"tensor \"model.norm.weight\" is missing: the file is one of several: name their "
                  "folder, " +
                  model.string()});
}

TEST(FoundModels, ByTheirNameOnTheHub) {
  const ScratchFolder folder;
  ::setenv("HF_HUB_CACHE", folder.path().c_str(), 1);
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"run", "org/stories", "-p", "A"},
        {"inspect", "org/stories"},
        {"tokenize", "org/stories", "-p", "A"},
        {"quantize", "org/stories", "-o", (folder / "out").string()}})
    expect_refusal(words, {"[model] org/stories: no such file or folder", folder.path().string(),
                           "hf download org/stories"});
  const fs::path model = folder / "models--org--stories";
  fs::create_directories(model / "refs");
  fs::create_directories(model / "snapshots");
  write_bytes(model / "refs/main", "0123abcd");
  fs::create_directory_symlink(demo(), model / "snapshots/0123abcd");
  const auto says = [](const std::vector<std::string>& words) {
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return outcome.out;
  };
  for (const bool chat : {false, true}) {
    std::vector<std::string> words = {"run", "org/stories", "-p", "Tell a story", "-n", "8"};
    if (chat) words.emplace_back("--chat");
    const std::string answer = says(words);
    words[1] = demo();
    EXPECT_EQ(answer, says(words));
  }
  EXPECT_EQ(says({"tokenize", "org/stories", "-p", "Once"}),
            says({"tokenize", demo(), "-p", "Once"}));
  EXPECT_EQ(run_for_json({"inspect", "org/stories"})["model"],
            run_for_json({"inspect", demo()})["model"]);
  ::unsetenv("HF_HUB_CACHE");
}

// A chat names its special tokens too.
TEST(FoundModels, PaddingTokenOutsideTheVocabularyInAChat) {
  TANDEM_REQUIRE_SHARED("reports/gguf_pad_id_minus_one");
  const ScratchFolder folder;
  write_bytes(folder / "t.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}");
  const Outcome outcome = run_program({"run", report("gguf_pad_id_minus_one") + "/model.gguf",
                                       "--chat", "--chat-template", (folder / "t.jinja").string(),
                                       "-p", "A", "-n", "2", "--no-cache"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
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
                 {model_ + "/model.safetensors: " + GetParam() + ": element ",
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
    expect_refusal(quiet, {"[model] " + model_ + ": expected finite logits, got NaN or infinity",
                           std::string(GetParam()) + ": element "});
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
