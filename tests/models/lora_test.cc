// LoRA adapters merged into tiny checkpoints: logits against PEFT's, and what the graph is made of.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "checkpoint/safetensors.h"
#include "models/graph_interpreter.h"
#include "models/model.h"
#include "support.h"

namespace tandem {
namespace {

using testing::fixture;

// The checkpoint of an adapter among the fixtures, with the adapter.
Checkpoint merged(const std::string& adapter) {
  const fs::path folder = fixture("models/fixtures/lora") / adapter;
  const Json config = read_json_file(folder / "adapter_config.json");
  Checkpoint checkpoint = Checkpoint::open(fixture("models/fixtures") /
                                           config.at("base_model_name_or_path").get<std::string>());
  checkpoint.merge_lora(folder);
  return checkpoint;
}

Graph build(const Checkpoint& checkpoint) {
  return build_graph(checkpoint.config_object(), CheckpointWeights(checkpoint));
}

const FloatWeight& weight_of(const Graph& graph, const std::string& module) {
  const auto node = std::ranges::find(graph.nodes(), module, &Node::name);
  return std::get<FloatWeight>(node->as<LinearAttributes>().weight);
}

class Adapter : public ::testing::TestWithParam<const char*> {};

TEST_P(Adapter, GivesTheLogitsOfPeft) {
  const Graph graph = build(merged(GetParam()));
  const auto reference =
      SafetensorsFile::open(fixture("models/fixtures/lora") / GetParam() / "reference.safetensors")
          .tensors;
  const std::vector<float> logits =
      testing::interpret(graph, reference.at("ids").as<std::int32_t>());
  const auto expected = reference.at("logits").as<float>();
  ASSERT_EQ(logits.size(), expected.size());
  float worst = 0;
  for (std::size_t i = 0; i < logits.size(); ++i)
    worst = std::max(worst, std::abs(logits[i] - expected[i]));
  // Logits reach 20, and the adapters change them by 1.6 to 13.
  EXPECT_LT(worst, 2e-4F);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Adapter,
                         ::testing::Values("patterns", "rslora", "dora", "bias", "lora_bias",
                                           "saved", "resized", "tied", "head", "norms"));

TEST(MergedGraph, ComputesWeightsWhenTheyAreRead) {
  const Graph graph = build(merged("patterns"));
  const FloatWeight& changed = weight_of(graph, "model.layers.0.mlp.up_proj");
  EXPECT_EQ(changed.rows->stored(), nullptr);
  EXPECT_EQ(changed.rows->dtype(), DType::kF32);
  // What the adapter leaves alone stays in the checkpoint's memory.
  const Graph other = build(merged("lora_bias"));
  EXPECT_NE(weight_of(other, "model.layers.0.self_attn.q_proj").rows->stored(), nullptr);
}

TEST(MergedGraph, UntiesAHeadThatDiffers) {
  for (const char* adapter : {"tied", "head"}) {
    const Checkpoint checkpoint = merged(adapter);
    EXPECT_EQ(checkpoint.config().at("tie_word_embeddings"), false) << adapter;
    EXPECT_TRUE(checkpoint.has("lm_head.weight")) << adapter;
  }
  const Checkpoint checkpoint = merged("dora");
  EXPECT_EQ(checkpoint.config().at("tie_word_embeddings"), true);
  EXPECT_FALSE(checkpoint.has("lm_head.weight"));
}

TEST(MergedGraph, TakesTheVocabularyOfTheAdapter) {
  const Checkpoint checkpoint = merged("resized");
  EXPECT_EQ(checkpoint.config().at("vocab_size"), 72);
  const Graph graph = build(checkpoint);
  EXPECT_EQ(graph.value(graph.outputs()[0]).width, 72);
}

}  // namespace
}  // namespace tandem
