// tandem build: folders for ONNX Runtime GenAI, and what it makes of them where it is installed.
#include <gtest/gtest.h>

#include <cstdlib>
#include <sstream>

#include "checkpoint/safetensors.h"
#include "cli/program.h"

namespace tandem {
namespace {

using testing::demo;
using testing::demo_package;
using testing::expect_refusal;
using testing::names_in;
using testing::Outcome;
using testing::run_for_json;
using testing::run_program;
using testing::ScratchFolder;
using testing::write_bytes;

using Words = std::vector<std::string>;

constexpr const char* kPrompt = "Once upon a time, there was a small fox named Lily.";

std::string python() {
  const char* chosen = std::getenv("TANDEM_TEST_PYTHON");
  return chosen != nullptr ? chosen : "python3";
}

class Build : public ::testing::Test {
 protected:
  std::string at(const std::string& name) const { return (folder_ / name).string(); }

  Json build(const std::string& input, const std::string& precision, Words more = {}) const {
    Words words = {"build", "-i", input, "-o", at("out"), "-p", precision, "-t", "1", "--json"};
    words.insert(words.end(), more.begin(), more.end());
    return run_for_json(words);
  }
  Json config() const { return read_json_file(folder_ / "out/genai_config.json"); }

  // What ONNX Runtime GenAI answers; an empty object where it is not installed. The prompt is a text or
  // a list of ids.
  Json answer_of_peer(std::int64_t count, const Json& prompt = kPrompt) const {
    if (std::system(
            fmt::format("'{}' -c 'import onnxruntime_genai' >/dev/null 2>&1", python()).c_str()) !=
        0)
      return Json::object();
    write_bytes(folder_ / "prompt", prompt.is_string() ? prompt.get<std::string>() : prompt.dump());
    const std::string command = fmt::format("'{}' '{}' {} '{}' '{}' {} >'{}' 2>'{}'", python(),
                                            testing::fixture("onnx/onnx_runtime_peer.py").string(),
                                            prompt.is_string() ? "greedy" : "continue", at("out"),
                                            at("prompt"), count, at("answer.json"), at("errors"));
    EXPECT_EQ(std::system(command.c_str()), 0) << read_text_file(folder_ / "errors");
    return read_json_file(folder_ / "answer.json");
  }

  // 64 tokens that are those of `tandem run MODEL --mode MODE`, up to one where what they chose is as
  // likely here but for `margin` nats.
  void expect_answer_of(const std::string& model, const std::string& mode,
                        double margin = 0) const {
    const Json theirs = answer_of_peer(64);
    if (theirs.empty())
      GTEST_SKIP() << python()
                   << " has no onnxruntime_genai (set TANDEM_TEST_PYTHON to one that has)";
    const Json ours = run_for_json({"run", model, "--mode", mode, "-p", kPrompt, "-n", "64",
                                    "--no-cache", "-t", "1", "--logprobs", "16", "--json"});
    EXPECT_EQ(theirs["prompt"].size(), ours["prompt_tokens"]);
    ASSERT_EQ(theirs["ids"].size(), ours["ids"].size());
    for (std::size_t i = 0; i < ours["ids"].size(); ++i) {
      if (theirs["ids"][i] == ours["ids"][i]) continue;
      for (const Json& other : ours["logprobs"][i]["top_logprobs"])
        if (other["id"] == theirs["ids"][i] &&
            other["logprob"] > ours["logprobs"][i]["logprob"].get<double>() - margin)
          return;
      FAIL() << "token " << i << ": " << theirs["text"] << " instead of " << ours["text"];
    }
    EXPECT_EQ(theirs["text"], ours["text"]);
  }

  const ScratchFolder folder_;
};

TEST_F(Build, FloatModelRunsInOnnxRuntimeGenai) {
  const Json report = build(demo(), "fp32");
  EXPECT_EQ(report["float_products"], 6 * 5 + 1);
  EXPECT_EQ(report["code_products"], 0);
  EXPECT_EQ(names_in(folder_ / "out"), (Words{"genai_config.json", "model.onnx", "model.onnx.data",
                                              "tokenizer.json", "tokenizer_config.json"}));
  EXPECT_EQ(config()["model"]["type"], "qwen2");
  EXPECT_EQ(config()["model"]["decoder"]["filename"], "model.onnx");
  EXPECT_FALSE(config()["model"]["decoder"]["inputs"].contains("position_ids"));
  // A tied head is stored once: 5.8 M parameters in float32, and cosines and sines.
  EXPECT_LT(fs::file_size(folder_ / "out/model.onnx.data"), 23.6e6);
  expect_answer_of(demo(), "float");
}

TEST_F(Build, CodesOfAPackageRunInOnnxRuntimeGenai) {
  for (const char* level : {"0", "4"}) {
    const Json report = build(demo_package(), "int4",
                              {"--extra_options", std::string("int4_accuracy_level=") + level});
    EXPECT_EQ(report["code_products"], 6 * 5 + 1);
    EXPECT_EQ(report["float_products"], 0);
    // Both round activations to int8, there by blocks (level 4) or not at all, here by tokens.
    expect_answer_of(demo_package(), "cpu", 0.5);
  }
}

// The graph that reads prompts, in static int8 as QDQ: ONNX Runtime GenAI runs it for both phases.
TEST_F(Build, StaticInt8OfAPackage) {
  const Json report = build(demo_package(), "int4", {"--phase", "prefill"});
  EXPECT_EQ(report["int8_products"], 6 * 7);
  EXPECT_EQ(report["code_products"], 1);
  const Json theirs = answer_of_peer(16);
  if (!theirs.empty()) {
    EXPECT_NE(theirs["text"].get<std::string>().find("Lily"), std::string::npos) << theirs["text"];
  }
  expect_refusal(
      {"build", "-i", demo_package(), "-o", at("other"), "-p", "fp16", "--phase", "prefill"},
      {"input_layernorm.quantize", "beside float32 only"});
}

TEST_F(Build, RoundsFloatWeights) {
  Json report = build(demo(), "int4");
  EXPECT_EQ(report["code_products"], 6 * 5 + 1);
  EXPECT_EQ(report["accuracy_level"], 4);
  const Json theirs = answer_of_peer(64);
  if (!theirs.empty()) {
    EXPECT_NE(theirs["text"].get<std::string>().find("Lily"), std::string::npos) << theirs["text"];
  }
  // Again over the same folder, with the head and the first layer's products of attention in float.
  report = build(demo(), "int4",
                 {"--extra_options", "block_size=64", "is_symmetric=false",
                  "nodes_to_exclude=/lm_head/MatMul,model.layers.0.self_attn.*"});
  EXPECT_EQ(report["code_products"], 6 * 5 - 2);
  EXPECT_EQ(report["float_products"], 3);
  const auto size = fs::file_size(folder_ / "out/model.onnx.data");
  build(demo(), "int4", {"--extra_options", "shared_embeddings=true"});
  EXPECT_LT(fs::file_size(folder_ / "out/model.onnx.data"), size / 2);
  EXPECT_EQ(answer_of_peer(64).empty(), theirs.empty());
  report = build(demo(), "int8", {"-e", "dml", "--extra_options", "filename=decoder.onnx"});
  EXPECT_EQ(report["position_ids"], true);
  EXPECT_EQ(config()["model"]["decoder"]["filename"], "decoder.onnx");
  EXPECT_EQ(config()["model"]["decoder"]["inputs"]["position_ids"], "position_ids");
  EXPECT_EQ(config()["model"]["decoder"]["session_options"]["provider_options"],
            Json::parse(R"([{"dml": {"enable_graph_capture": "1"}}])"));
  build(demo(), "int4", {"-e", "dml", "--dialect", "0.5.1"});
  EXPECT_EQ(config()["model"]["decoder"]["session_options"]["provider_options"],
            Json::parse(R"([{"dml": {}}])"));
}

TEST_F(Build, WhatLiesInAGgufBecomesFiles) {
  EXPECT_EQ(run_program({"-q", "convert", demo(), at("demo.gguf"), "--dtype", "q8_0"}).status, 0);
  build(at("demo.gguf"), "fp32");
  EXPECT_EQ(names_in(folder_ / "out"),
            (Words{"chat_template.jinja", "genai_config.json", "model.onnx", "model.onnx.data",
                   "tokenizer.json", "tokenizer_config.json"}));
  expect_answer_of(at("demo.gguf"), "float");
}

// In Quark's words, the head in groups of 32 and all others in groups of 128.
TEST_F(Build, GroupsAreThoseOfTheCheckpoint) {
  EXPECT_EQ(run_program({"-q", "quantize", demo(), "-o", at("quark"), "--export", "quark",
                         "--lm-head", "32"})
                .status,
            0);
  const Json report = build(at("quark"), "int4");
  EXPECT_EQ(report["code_products"], 6 * 5 + 1);
  const std::string model = read_text_file(folder_ / "out/model.onnx");
  EXPECT_NE(model.find("lm_head.MatMulNBits.qzeros"), std::string::npos);
  EXPECT_EQ(model.find("MatMul_Q4"), std::string::npos);
  // 4 bits a weight, a float32 scale and half a byte of zero point a group; the embedding in float32,
  // and cosines, sines and norms.
  const double blocks = 6 * (256.0 * (256 + 256) + 256 * 256 + 3 * 256 * 768);
  const double head = 4096.0 * 256;
  const double bytes = (blocks + head) / 2 + (blocks / 128 + head / 32) * 4.5 + head * 4;
  EXPECT_NEAR(static_cast<double>(fs::file_size(folder_ / "out/model.onnx.data")), bytes, 2e5);
  expect_answer_of(at("quark"), "float", 0.5);
}

// Checkpoints of transformers with what it generates; heads are multiples of 8.
TEST_F(Build, FamiliesContinueAsInTransformers) {
  for (const char* family : {"llama_biased", "llama_head_dim", "qwen2_window", "qwen3",
                             "phi3_longrope", "gemma2", "chatglm"}) {
    const fs::path checkpoint = folder_ / family;
    fs::copy(testing::fixture("models/fixtures") / family, checkpoint);
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"})
      fs::copy_file(testing::demo_dir() / name, checkpoint / name);
    build(checkpoint.string(), "fp32");
    const auto reference = SafetensorsFile::open(checkpoint / "reference.safetensors").tensors;
    const auto all = reference.at("ids").as<std::int32_t>().first(20);
    // Keys of a longer sequence rotate otherwise; ONNX Runtime GenAI reads a sequence again where
    // Phi-3's own context of 4096 ends, not where this one's does.
    const std::size_t most = std::string_view(family) == "phi3_longrope" ? 44 : 60;
    const auto expected = reference.at("greedy").as<std::int32_t>().first(most);
    const Json theirs = answer_of_peer(static_cast<std::int64_t>(expected.size()),
                                       Json(std::vector(all.begin(), all.end())));
    if (theirs.empty())
      GTEST_SKIP() << python()
                   << " has no onnxruntime_genai (set TANDEM_TEST_PYTHON to one that has)";
    // It stops where the end token comes.
    ASSERT_GT(theirs["ids"].size(), 4U);
    for (std::size_t i = 0; i < theirs["ids"].size(); ++i)
      ASSERT_EQ(theirs["ids"][i], expected[i]) << family << " " << i;
  }
}

TEST_F(Build, PrintsWhatItWrote) {
  const Outcome outcome =
      run_program({"build", "-i", demo_package(), "-o", at("out"), "-p", "int4", "-e", "cpu"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("31 in codes, accuracy_level 4 (activations in int8 by blocks)"),
            std::string::npos)
      << outcome.out;
}

TEST_F(Build, MistakesAreNamed) {
  const auto refuse = [&](Words more, const Words& expected) {
    Words words = {"build", "-i", demo(), "-o", at("out")};
    words.insert(words.end(), more.begin(), more.end());
    expect_refusal(words, expected);
    EXPECT_FALSE(fs::exists(folder_ / "out"));
  };
  refuse({}, {"--precision"});
  refuse({"-p", "fp8"}, {"--precision", "fp8"});
  refuse({"-p", "int4", "-e", "rocm"}, {"--execution-provider", "rocm"});
  refuse({"-p", "int4", "--extra_options", "block_sice=32"}, {"did you mean 'block_size'?"});
  refuse({"-p", "int4", "--extra_options", "block_size"}, {"expected KEY=VALUE"});
  refuse({"-p", "int4", "--extra_options", "block_size=48"}, {"a power of two"});
  refuse({"-p", "int4", "--extra_options", "accuracy_level=5"}, {"a number from 0 to 4"});
  refuse({"-p", "int4", "--extra_options", "is_symmetric=maybe"}, {"true or false"});
  refuse({"-p", "int4", "--extra_options", "algo_config=k_quant"}, {"algo_config", "default"});
  refuse({"-p", "int4", "--extra_options", "nodes_to_exclude=/lm_heat/MatMul"},
         {"/lm_heat/MatMul", "matches no module"});
  refuse({"-p", "int4", "--extra_options", "filename=../model.onnx"}, {"without folders"});
  refuse({"-p", "fp32", "--extra_options", "block_size=32"}, {"expected with -p int4 or int8"});
}

TEST_F(Build, ReplacesOnlyItsOwnFolders) {
  fs::create_directory(folder_ / "out");
  write_bytes(folder_ / "out/genai_config.json", R"({"model": {}})");
  expect_refusal({"build", "-i", demo(), "-o", at("out"), "-p", "fp32"},
                 {"out: would be replaced", "was not written by tandem"});
  EXPECT_EQ(names_in(folder_ / "out"), Words{"genai_config.json"});
  fs::remove(folder_ / "out/genai_config.json");
  build(demo(), "fp32");
  write_bytes(folder_ / "out/notes.txt", "mine");
  expect_refusal({"build", "-i", demo(), "-o", at("out"), "-p", "fp32"}, {"it holds notes.txt"});
}

// The lines of the page that puts other projects' commands beside ours.
TEST_F(Build, PageOfCommands) {
  std::istringstream page(read_text_file(testing::source_dir() / "docs/from-the-seeds.md"));
  int commands = 0;
  bool is_here = false;
  for (std::string line; std::getline(page, line);) {
    if (line.starts_with("## ")) is_here = line.starts_with("## ONNX Runtime GenAI");
    if (!is_here || !line.starts_with("tandem ")) continue;
    Words words;
    std::istringstream split(line.substr(7));
    for (std::string word; split >> word;) {
      if (word == "MODEL") word = demo();
      if (word == "OUT") word = at("out" + std::to_string(commands));
      words.push_back(word);
    }
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.status, 0) << line << outcome.err;
    EXPECT_TRUE(fs::exists(at("out" + std::to_string(commands)) + "/model.onnx")) << line;
    ++commands;
  }
  EXPECT_EQ(commands, 3);
}

}  // namespace
}  // namespace tandem
