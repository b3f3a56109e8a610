// Quantizing with a LoRA adapter gives what quantizing the merged checkpoint gives.
#include <gtest/gtest.h>

#include "checkpoint/adapter_files.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/float_rows.h"
#include "quantize/tiny_checkpoint.h"

namespace tandem::testing {
namespace {

constexpr const char* kGate = "model.layers.1.mlp.gate_proj";

class QuantizeWithLora : public ::testing::Test {
 protected:
  QuantizeWithLora() {
    write_tiny_checkpoint(base_);
    AdapterFiles files;
    files.add("model.layers.0.self_attn.q_proj", 64, 64);
    files.add("model.layers.0.mlp.down_proj", 64, 128);
    files.add(kGate, 128, 64);
    files.tensors["model.layers.0.input_layernorm.weight"] = random_tensor({64}, 9);
    files.write(adapter_);
    write_merged();
  }

  // The checkpoint that a merge would have saved.
  void write_merged() const {
    fs::copy(base_, merged_);
    Checkpoint checkpoint = Checkpoint::open(base_);
    checkpoint.merge_lora(adapter_);
    std::map<std::string, Tensor> tensors;
    for (const auto& [name, shape] : checkpoint.contents()) {
      const FloatRows rows(checkpoint, name, shape);
      tensors[name] = Tensor::from_floats(rows.read(0, rows.rows()), shape);
    }
    write_safetensors(merged_ / "model.safetensors", tensors);
  }

  void quantize(const std::string& target, const fs::path& checkpoint, const fs::path& lora,
                const Recipe& recipe, std::optional<PackedStyle> style = {}) const {
    ThreadPool pool(2);
    quantize_model({.checkpoint = checkpoint,
                    .lora = lora,
                    .calibration = demo_dir() / "calibration.txt",
                    .target = scratch_ / target,
                    .export_style = style,
                    .recipe = recipe},
                   pool, silent());
  }

  void expect_same(const std::string& a, const std::string& b, const char* file) const {
    EXPECT_TRUE(read_text_file(scratch_ / a / file) == read_text_file(scratch_ / b / file)) << file;
  }

  ScratchFolder scratch_;
  fs::path base_ = scratch_ / "base";
  fs::path adapter_ = scratch_ / "adapter";
  fs::path merged_ = scratch_ / "merged";
};

TEST_F(QuantizeWithLora, MakesThePackageOfTheMergedModel) {
  Recipe recipe = quick_recipe();
  recipe.passes = {{"smoothquant"}, {"awq"}};
  recipe.rules.push_back(exclude(kGate));
  quantize("with", base_, adapter_, recipe);
  quantize("of_merged", merged_, {}, recipe);
  quantize("without", base_, {}, recipe);
  for (const char* file : {"decode.safetensors", "prefill.safetensors", "graph.json",
                           "genai_config.json", "config.json", "tokenizer.json"})
    expect_same("with", "of_merged", file);
  EXPECT_FALSE(read_text_file(scratch_ / "with/decode.safetensors") ==
               read_text_file(scratch_ / "without/decode.safetensors"));
}

TEST_F(QuantizeWithLora, ExportsTheMergedModel) {
  Recipe recipe = quick_recipe();
  recipe.rules.push_back(exclude("lm_head"));
  for (const auto layout : {PackedStyle::Layout::kAwq, PackedStyle::Layout::kQuark}) {
    const std::string name(to_string(layout));
    quantize(name + "_with", base_, adapter_, recipe, PackedStyle{layout});
    quantize(name + "_of_merged", merged_, {}, recipe, PackedStyle{layout});
    for (const char* file : {"model.safetensors", "config.json"})
      expect_same(name + "_with", name + "_of_merged", file);
  }
}

// A head that only the adapter has apart from the table of embeddings.
TEST_F(QuantizeWithLora, ExportsAHeadThatIsNoLongerTied) {
  AdapterFiles files;
  files.add("lm_head", 4096, 64);
  files.write(adapter_);
  Recipe recipe = quick_recipe();
  recipe.rules.push_back(exclude("lm_head"));
  quantize("out", base_, adapter_, recipe, PackedStyle{PackedStyle::Layout::kAwq});
  const Checkpoint out = Checkpoint::open(scratch_ / "out");
  EXPECT_EQ(out.config().at("tie_word_embeddings"), false);
  Checkpoint want = Checkpoint::open(base_);
  want.merge_lora(adapter_);
  const std::vector<float> head = dequantize_rows(out.linear("lm_head", 4096, 64), 0, 10);
  const std::vector<float> expected = dequantize_rows(want.linear("lm_head", 4096, 64), 0, 10);
  for (std::size_t i = 0; i < head.size(); ++i) EXPECT_NEAR(head[i], expected[i], 1e-3F);
  // A package says so, too.
  quantize("package", base_, adapter_, quick_recipe());
  EXPECT_EQ(read_json_file(scratch_ / "package/config.json").at("tie_word_embeddings"), false);
}

TEST_F(QuantizeWithLora, TakesTheAdaptersTokenizer) {
  for (const char* name : {"tokenizer.json", "generation_config.json"})
    fs::copy_file(base_ / name, adapter_ / name);
  write_text_file(adapter_ / "chat_template.jinja", "{{ messages[0].content }}");
  write_text_file(adapter_ / "generation_config.json", "{}");
  quantize("out", base_, adapter_, quick_recipe());
  const fs::path out = scratch_ / "out";
  EXPECT_EQ(read_text_file(out / "chat_template.jinja"), "{{ messages[0].content }}");
  EXPECT_TRUE(fs::exists(out / "tokenizer.json"));
  // Only the checkpoint's.
  EXPECT_FALSE(fs::exists(out / "tokenizer_config.json"));
  EXPECT_EQ(read_text_file(out / "generation_config.json"),
            read_text_file(base_ / "generation_config.json"));
  EXPECT_EQ(read_text_file(out / "config.json"), read_text_file(base_ / "config.json"));
}

TEST_F(QuantizeWithLora, AnAdapterThatDoesNotFitLeavesNothing) {
  AdapterFiles files;
  files.add(kGate, 64, 128);
  files.write(adapter_);
  EXPECT_NE(error_of([&] {
              quantize("out", base_, adapter_, quick_recipe());
            }).find("expected [128, 64] as in the checkpoint"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(scratch_ / "out"));
}

}  // namespace
}  // namespace tandem::testing
