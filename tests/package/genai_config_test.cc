// genai_config.json: the keys that ONNX Runtime GenAI needs, and that its own parser takes it.
#include "package/genai_config.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <limits>

#include "package/package_fixture.h"
#include "piped_output.h"

namespace tandem {
namespace {

using testing::ScratchFolder;

// That of the demo model.
ModelInfo demo_info() {
  return {.model_type = "qwen2",
          .hidden_size = 256,
          .intermediate_size = 768,
          .layers = 6,
          .heads = 4,
          .kv_heads = 2,
          .head_dim = 64,
          .vocabulary = 4096,
          .context_length = 512,
          .tied_head = true,
          .bos = 4093,
          .eos = {4095, 4093},
          .pad = 4093};
}

TEST(GenaiConfig, HasWhatOnnxRuntimeGenaiReads) {
  const OrderedJson config = make_genai_config(demo_info(), Json::object());
  const OrderedJson& model = config["model"];
  EXPECT_EQ(model["type"], "qwen2");
  EXPECT_EQ(model["context_length"], 512);
  EXPECT_EQ(model["vocab_size"], 4096);
  EXPECT_EQ(model["bos_token_id"], 4093);
  EXPECT_EQ(model["eos_token_id"], OrderedJson::array({4095, 4093}));
  EXPECT_EQ(model["pad_token_id"], 4093);
  const OrderedJson& decoder = model["decoder"];
  EXPECT_EQ(decoder["filename"], "model.onnx");
  EXPECT_EQ(decoder["hidden_size"], 256);
  EXPECT_EQ(decoder["head_size"], 64);
  EXPECT_EQ(decoder["num_attention_heads"], 4);
  EXPECT_EQ(decoder["num_key_value_heads"], 2);
  EXPECT_EQ(decoder["num_hidden_layers"], 6);
  EXPECT_EQ(decoder["inputs"]["past_key_names"], "past_key_values.%d.key");
  EXPECT_EQ(decoder["inputs"]["past_value_names"], "past_key_values.%d.value");
  EXPECT_EQ(decoder["outputs"]["present_key_names"], "present.%d.key");
  EXPECT_EQ(decoder["outputs"]["logits"], "logits");
  EXPECT_TRUE(decoder["session_options"]["provider_options"].is_array());
  const OrderedJson& search = config["search"];
  EXPECT_EQ(search["max_length"], 512);
  EXPECT_EQ(search["do_sample"], false);
  EXPECT_EQ(search["top_k"], 50);
  EXPECT_EQ(search["num_beams"], 1);
}

TEST(GenaiConfig, TakesSearchDefaultsFromTheCheckpoint) {
  const Json generation = {{"do_sample", true},
                           {"temperature", 0.7},
                           {"top_k", 20},
                           {"top_p", 0.8},
                           {"repetition_penalty", 1.1}};
  const OrderedJson search = make_genai_config(demo_info(), generation)["search"];
  EXPECT_EQ(search["do_sample"], true);
  EXPECT_EQ(search["temperature"], 0.7);
  EXPECT_EQ(search["top_k"], 20);
  EXPECT_EQ(search["top_p"], 0.8);
  EXPECT_EQ(search["repetition_penalty"], 1.1);
}

TEST(GenaiConfig, BoundsWhatTheCheckpointSays) {
  const auto top_k = [](const Json& value) {
    const OrderedJson config = make_genai_config(demo_info(), Json{{"top_k", value}});
    return config["search"]["top_k"].get<std::int64_t>();
  };
  EXPECT_EQ(top_k(1e300), std::numeric_limits<std::int32_t>::max());
  EXPECT_EQ(top_k(-1e300), 0);
  EXPECT_EQ(top_k("many"), 50);
  EXPECT_EQ(top_k(nullptr), 50);
}

TEST(GenaiConfig, ModelsWithoutEndOrBeginHaveNone) {
  ModelInfo info = demo_info();
  info.bos.reset();
  info.pad.reset();
  info.eos = {7};
  OrderedJson model = make_genai_config(info, Json::object())["model"];
  EXPECT_FALSE(model.contains("bos_token_id"));
  EXPECT_EQ(model["eos_token_id"], 7);
  EXPECT_EQ(model["pad_token_id"], 7);
}

TEST(GenaiConfig, OnnxRuntimeGenaiParsesIt) {
  const char* chosen = std::getenv("TANDEM_TEST_PYTHON");
  const std::string python = chosen != nullptr ? chosen : "python3";
  const auto run = [&](const std::string& code) {
    return testing::piped_output("'" + python + "' -c " + code + " 2>&1");
  };
  if (run("'import onnxruntime_genai'").status != 0)
    GTEST_SKIP() << python << " has no onnxruntime_genai (set TANDEM_TEST_PYTHON to one that has)";
  const ScratchFolder folder;
  testing::write_tiny_package(folder / "p");
  const std::string script =
      "import sys, onnxruntime_genai as og\nog.Config(sys.argv[1])\n"
      "print(\"parsed\")";
  const auto parse = [&] { return run("'" + script + "' '" + (folder / "p").string() + "'"); };
  const testing::PipedOutput parsed = parse();
  EXPECT_EQ(parsed.status, 0) << parsed.text;
  EXPECT_NE(parsed.text.find("parsed"), std::string::npos) << parsed.text;
  // That its parser would notice: a key that it does not know.
  Json config = read_json_file(folder / "p/genai_config.json");
  config["model"]["no_such_key"] = 1;
  testing::write_bytes(folder / "p/genai_config.json", config.dump());
  EXPECT_NE(parse().status, 0);
}

}  // namespace
}  // namespace tandem
