// The commands of AMD Quark's documentation with the program's name changed, and each of their flags.
#include <gtest/gtest.h>

#include <sstream>

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

using Words = std::vector<std::string>;

class QuarkWords : public ::testing::Test {
 protected:
  QuarkWords() {
    // A text of a few windows.
    const std::string text = read_text_file(demo() + "/calibration.txt").substr(0, 6000);
    write_text_file(folder_ / "text.txt", text);
    write_text_file(folder_ / "text.jsonl", Json{{"text", text}}.dump() + "\n");
  }

  // The options that all of them have, and more.
  Words command(const std::string& target, Words more) const {
    Words words = {"quantize",
                   "--model_dir",
                   demo(),
                   "--output_dir",
                   (folder_ / target).string(),
                   "--num_calib_data",
                   "128",
                   "--seq_len",
                   "64"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  Json config_after(const std::string& target, Words more) const {
    const Outcome outcome = run_program(command(target, std::move(more)));
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return read_json_file(folder_ / target / "config.json");
  }

  const ScratchFolder folder_;
};

// As printed in the guide for ONNX Runtime GenAI, the default scheme with AWQ.
TEST_F(QuarkWords, AwqCheckpoint) {
  const Json config = config_after(
      "out", {"--quant_scheme", "w_uint4_per_group_asym", "--quant_algo", "awq", "--dataset",
              "pileval_for_awq_benchmark", "--dataset_path", (folder_ / "text.jsonl").string(),
              "--model_export", "hf_format", "--data_type", "float16", "--custom_mode", "awq"});
  const Json& settings = config["quantization_config"];
  EXPECT_EQ(settings["quant_method"], "awq");
  EXPECT_EQ(settings["group_size"], 128);
  EXPECT_EQ(settings["modules_to_not_convert"], Json::array({"lm_head"}));
  EXPECT_EQ(config["torch_dtype"], "float16");
}

// With the head in smaller groups, in Quark's own words.
TEST_F(QuarkWords, HeadInSmallerGroups) {
  const Json config =
      config_after("out", {"--quant_scheme", "w_uint4_per_group_asym", "--model_export",
                           "hf_format", "--data_type", "float16", "--exclude_layers",
                           "--group_size", "128", "--group_size_per_layer", "lm_head", "32"});
  const Json& settings = config["quantization_config"];
  EXPECT_EQ(settings["quant_method"], "quark");
  EXPECT_EQ(settings["exclude"], Json::array());
  EXPECT_EQ(settings["layer_quant_config"]["lm_head"]["weight"]["group_size"], 32);
  const Json inspected = run_for_json({"inspect", (folder_ / "out").string()});
  EXPECT_EQ(inspected["linears"]["float"]["int4 g32"]["count"], 1);
  EXPECT_EQ(inspected["linears"]["float"]["int4 g128"]["count"], 42);
  EXPECT_EQ(
      run_program({"-q", "run", (folder_ / "out").string(), "-p", "Once", "-n", "4", "--no-cache"})
          .status,
      0);
}

// The first documentation's spelling of an empty list and of the export.
TEST_F(QuarkWords, EmptyListInBrackets) {
  const Json config = config_after(
      "out", {"--quant_scheme", "w_uint4_per_group_asym", "--model_export", "quark_safetensors",
              "--data_type", "float16", "--exclude_layers", "[]", "--custom_mode", "awq"});
  EXPECT_EQ(config["quantization_config"]["modules_to_not_convert"], Json::array());
  EXPECT_EQ(config["tie_word_embeddings"], false);
}

TEST_F(QuarkWords, SchemesOfEveryName) {
  const auto weight = [&](const std::string& target, Words more) {
    more.insert(more.end(), {"--model_export", "hf_format"});
    return config_after(target,
                        std::move(more))["quantization_config"]["global_quant_config"]["weight"];
  };
  Json old = weight("a", {"--quant_scheme", "w_int4_per_group_sym", "--group_size", "64"});
  EXPECT_EQ(old["dtype"], "int4");
  EXPECT_EQ(old["group_size"], 64);
  EXPECT_EQ(old, weight("b", {"--quant_scheme", "int4_wo_64"}));
  Json channel = weight("c", {"--quant_scheme", "uint4_wo_per_channel"});
  EXPECT_EQ(channel["qscheme"], "per_channel");
  EXPECT_EQ(channel, weight("d", {"--quant_scheme", "w_uint4_per_channel_asym"}));
  // The demo is stored in bfloat16, which is then the scales' type, too.
  const auto file = SafetensorsFile::open(folder_ / "b/model.safetensors");
  EXPECT_EQ(file.tensors.at("model.layers.0.mlp.up_proj.weight_scale").dtype(), DType::kBF16);
}

TEST_F(QuarkWords, SchemesAndExclusionsByPattern) {
  const Json settings = config_after(
      "out",
      {"--quant_scheme", "uint4_wo_128", "--layer_quant_scheme", "*.down_proj", "int4_wo_32",
       "--layer_quant_scheme", "*.up_proj", "w_int8_per_tensor_sym", "--exclude_layers", "*.k_proj",
       "lm_head", "--model_export", "hf_format", "--pack_method", "order"})["quantization_config"];
  EXPECT_EQ(settings["exclude"].size(), 7U);
  EXPECT_EQ(settings["layer_quant_config"].size(), 12U);
  EXPECT_EQ(settings["layer_quant_config"]["model.layers.5.mlp.down_proj"]["weight"]["dtype"],
            "int4");
  EXPECT_EQ(settings["layer_quant_config"]["model.layers.5.mlp.up_proj"]["weight"]["qscheme"],
            "per_tensor");
  EXPECT_EQ(settings["export"]["pack_method"], "order");
}

// 8 bits for some modules, in the scales' type of all, through a checkpoint and its package.
TEST_F(QuarkWords, EightBitsByPattern) {
  const Json settings =
      config_after("out", {"--quant_scheme", "uint4_wo_128", "--layer_quant_scheme", "*.down_proj",
                           "w_int8_per_group_sym", "--layer_quant_scheme", "*.up_proj",
                           "w_uint8_per_group_asym", "--group_size", "64", "--data_type", "float32",
                           "--model_export", "hf_format"})["quantization_config"];
  const Json& down = settings["layer_quant_config"]["model.layers.5.mlp.down_proj"]["weight"];
  EXPECT_EQ(down["dtype"], "int8");
  EXPECT_EQ(down["group_size"], 64);
  const std::string file = (folder_ / "out").string(), package = (folder_ / "package").string();
  EXPECT_EQ(run_program({"quantize", file, "-o", package, "--calib",
                         (folder_ / "text.txt").string(), "--seq-len", "64"})
                .status,
            0);
  const Json inspected = run_for_json({"inspect", package});
  EXPECT_EQ(inspected["linears"]["decode"]["int8 g64"]["count"], 12);
  EXPECT_EQ(inspected["linears"]["decode"]["int4 g128"]["count"], 30);
  for (const std::string& model : {file, package}) {
    const Outcome run =
        run_program({"-q", "run", model, "-p", "Once upon a time", "-n", "8", "--no-cache"});
    EXPECT_EQ(run.status, 0) << run.err;
    EXPECT_FALSE(run.out.empty());
  }
}

// Without an export the same rules make a package.
TEST_F(QuarkWords, Package) {
  EXPECT_EQ(run_program(command("out", {"--quant_scheme", "uint4_wo_128", "--exclude_layers",
                                        "--group_size_per_layer", "lm_head", "32"}))
                .status,
            0);
  const Json inspected = run_for_json({"inspect", (folder_ / "out").string()});
  EXPECT_EQ(inspected["linears"]["decode"]["int4 g128"]["count"], 42);
  EXPECT_EQ(inspected["linears"]["decode"]["int4 g128"]["modules"]["down_proj"], 6);
  EXPECT_EQ(inspected["linears"]["decode"]["int4 g32"]["modules"], Json({{"lm_head", 1}}));
  const Outcome text = run_program({"inspect", (folder_ / "out").string()});
  EXPECT_NE(text.out.find("decode   int4 g32      1 weights, 1.0 M parameters, 0.6 MB: lm_head\n"),
            std::string::npos)
      << text.out;
  const Outcome run = run_program(
      {"-q", "run", (folder_ / "out").string(), "-p", "Once upon a time", "-n", "8", "--no-cache"});
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_FALSE(run.out.empty());
}

// Weights and activations in int8, static or dynamic.
TEST_F(QuarkWords, EightBitActivations) {
  for (const auto& [scheme, activations] :
       {std::pair{"int8", "static"}, {"w_int8_a_int8_per_tensor_sym_dynamic", "dynamic"}}) {
    const std::string package = (folder_ / activations).string();
    EXPECT_EQ(run_program(command(activations, {"--quant_scheme", scheme})).status, 0) << scheme;
    const Json inspected = run_for_json({"inspect", package});
    for (const char* phase : {"decode", "prefill"})
      EXPECT_EQ(inspected["linears"][phase]["int8"]["count"], 42) << inspected["linears"];
    const Json rules = inspected["recipe"]["rules"];
    EXPECT_EQ(rules[0]["decode"]["activations"], activations);
    const Outcome run =
        run_program({"-q", "run", package, "-p", "Once upon a time", "-n", "8", "--no-cache"});
    EXPECT_EQ(run.status, 0) << run.err;
    EXPECT_FALSE(run.out.empty());
  }
  expect_refusal(command("out", {"--quant_scheme", "int8", "--model_export", "hf_format"}),
                 {"int8 with int8 activations is not exported"});
}

// Each line of a code block of the page that puts their commands beside ours; mllm_words_test.cc has
// the rest of it.
TEST_F(QuarkWords, PageOfCommands) {
  std::istringstream page(read_text_file(fs::path(TANDEM_SOURCE_DIR) / "docs/from-the-seeds.md"));
  int commands = 0;
  for (std::string line; std::getline(page, line) && !line.starts_with("## mllm");) {
    if (!line.starts_with("tandem ")) continue;
    Words words;
    std::istringstream split(line.substr(7));
    for (std::string word; split >> word;) {
      if (word == "MODEL") word = demo();
      if (word == "OUT") word = (folder_ / std::to_string(commands)).string();
      if (word == "TEXT") word = (folder_ / "text.txt").string();
      words.push_back(word);
    }
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.status, 0) << line << outcome.err;
    const Outcome run = run_program({"-q", "run", (folder_ / std::to_string(commands)).string(),
                                     "-p", "Once", "-n", "2", "--no-cache"});
    EXPECT_EQ(run.status, 0) << line << run.err;
    ++commands;
  }
  EXPECT_EQ(commands, 7);
}

TEST_F(QuarkWords, MistakesAreNamed) {
  const auto refuse = [&](Words more, Words expected) {
    expect_refusal(command("out", std::move(more)), expected);
    EXPECT_FALSE(fs::exists(folder_ / "out"));
  };
  refuse({"--quant_scheme", "uint4_wo_129"},
         {"--quant-scheme: expected one of", "did you mean 'uint4_wo_12"});
  refuse({"--quant_scheme", "uint4_wo_128", "--group_size_per_layer", "lm_head", "33"},
         {"lm_head: expected a group size of 32, 64 or 128, got '33'"});
  refuse({"--quant_scheme", "uint4_wo_128", "--group_size_per_layer", "lm_tail", "32"},
         {"lm_tail"});
  refuse({"--quant_scheme", "uint4_wo_128", "--exclude_layers", "*.nothing"}, {"*.nothing"});
  refuse({"--quant_scheme", "uint4_wo_128", "--model_export", "onnx"}, {"--model-export"});
  refuse({"--quant_scheme", "uint4_wo_128", "--quant_algo", "qronos"}, {"--algo"});
  refuse({"--custom_mode", "awq"}, {"--quant-scheme"});
  // Ours that say the same.
  for (const auto& [flag, value] :
       {std::pair{"--lm-head", "32"}, {"--export", "awq"}, {"--recipe", "r.json"}})
    refuse({"--quant_scheme", "uint4_wo_128", flag, value}, {"--quant-scheme", flag});
  refuse({"--quant_scheme", "uint4_wo_128", "--dataset_path", "a.txt", "--calib", "b.txt"},
         {"--dataset-path", "--calib"});
  refuse({"--quant_scheme", "uint4_wo_128", "--dataset_path", (folder_ / "no.txt").string(),
          "--quant_algo", "awq"},
         {"no.txt"});
  refuse({"--quant_scheme", "uint4_wo_128", "--dataset_path",
          testing::fixture("quantize/fixtures/lines.jsonl.zst").string(), "--quant_algo", "awq"},
         {"the text has 11 tokens, expected at least one window of 64"});
}

}  // namespace
}  // namespace tandem
