#include "quantize/tiny_checkpoint.h"

#include <map>
#include <random>

#include "checkpoint/safetensors.h"

namespace tandem::testing {
namespace {

std::map<std::string, Tensor> random_tensors(const TinyShape& s) {
  std::mt19937 random(7);
  std::uniform_real_distribution<float> uniform(-0.1f, 0.1f);
  std::map<std::string, Tensor> tensors;
  const auto add = [&](const std::string& name, const Shape& shape, float center = 0) {
    std::vector<float> values(static_cast<std::size_t>(element_count(shape)));
    for (float& value : values) value = center + uniform(random);
    tensors[name] = Tensor::from_floats(values, shape);
  };
  const std::int64_t head_dim = s.hidden / s.heads;
  add("model.embed_tokens.weight", {s.vocabulary, s.hidden});
  for (std::int64_t layer = 0; layer < s.layers; ++layer) {
    const std::string p = "model.layers." + std::to_string(layer) + ".";
    const std::int64_t kv = s.kv_heads * head_dim;
    add(p + "input_layernorm.weight", {s.hidden}, 1);
    add(p + "self_attn.q_proj.weight", {s.hidden, s.hidden});
    add(p + "self_attn.k_proj.weight", {kv, s.hidden});
    add(p + "self_attn.v_proj.weight", {kv, s.hidden});
    add(p + "self_attn.q_proj.bias", {s.hidden});
    add(p + "self_attn.k_proj.bias", {kv});
    add(p + "self_attn.v_proj.bias", {kv});
    add(p + "self_attn.o_proj.weight", {s.hidden, s.hidden});
    add(p + "post_attention_layernorm.weight", {s.hidden}, 1);
    add(p + "mlp.gate_proj.weight", {s.intermediate, s.hidden});
    add(p + "mlp.up_proj.weight", {s.intermediate, s.hidden});
    add(p + "mlp.down_proj.weight", {s.hidden, s.intermediate});
  }
  add("model.norm.weight", {s.hidden}, 1);
  return tensors;
}

}  // namespace

void write_tiny_checkpoint(const fs::path& folder, const TinyShape& shape) {
  fs::create_directories(folder);
  const OrderedJson config = {{"architectures", {"Qwen2ForCausalLM"}},
                              {"model_type", "qwen2"},
                              {"hidden_size", shape.hidden},
                              {"intermediate_size", shape.intermediate},
                              {"num_hidden_layers", shape.layers},
                              {"num_attention_heads", shape.heads},
                              {"num_key_value_heads", shape.kv_heads},
                              {"vocab_size", shape.vocabulary},
                              {"max_position_embeddings", shape.context},
                              {"rms_norm_eps", 1e-6},
                              {"rope_theta", 10000.0},
                              {"hidden_act", "silu"},
                              {"tie_word_embeddings", true},
                              {"bos_token_id", 4093},
                              {"eos_token_id", 4095}};
  write_bytes(folder / "config.json", config.dump(1));
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"})
    fs::copy_file(demo_dir() / name, folder / name);
  write_safetensors(folder / "model.safetensors", random_tensors(shape));
}

Recipe quick_recipe(std::int64_t group) {
  Recipe recipe = default_recipe(group);
  recipe.chunk = 32;
  recipe.calibration.samples = 2;
  recipe.calibration.window = 32;
  return recipe;
}

QuantizeReport quantize_quickly(const fs::path& checkpoint, const fs::path& target,
                                const Recipe& recipe) {
  ThreadPool pool(2);
  return quantize_model({.checkpoint = checkpoint,
                         .calibration = demo_dir() / "calibration.txt",
                         .target = target,
                         .recipe = recipe},
                        pool, silent());
}

}  // namespace tandem::testing
