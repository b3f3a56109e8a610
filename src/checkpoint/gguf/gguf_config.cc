// The metadata of a GGUF file, translated to Hugging Face's config.json.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/printable.h"
#include "checkpoint/gguf/gguf_checkpoint.h"
#include "checkpoint/gguf/gguf_end_tokens.h"
#include "tensor/half.h"

namespace tandem {
namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 40;  // of any size; readers set closer bounds

// Writes config.json key by key.
class ConfigWriter {
 public:
  ConfigWriter(const GgufFile& file, const GgufArchitecture& architecture, const std::string& place)
      : file_(file),
        architecture_(architecture),
        metadata_(file.metadata, place),
        prefix_(std::string(architecture.name) + ".") {}

  Json write() {
    config_["model_type"] = architecture_.model_type;
    if (architecture_.name == "chatglm") {
      write_chatglm();
    } else {
      write_common();
    }
    if (architecture_.name == "phi3") write_phi3();
    if (architecture_.name == "gemma2") write_gemma2();
    write_tokens();
    return std::move(config_);
  }

 private:
  bool has(const std::string& key) const { return metadata_.has(prefix_ + key); }
  std::int64_t size(const std::string& key) const {
    const Json& value = metadata_.at(prefix_ + key);
    // One value per layer for settings that may differ between layers.
    if (value.is_array() && !value.empty()) {
      const auto differs = [&](const Json& other) { return other != value.front(); };
      if (std::ranges::any_of(value, differs))
        fail(ErrorCode::kUnsupported, "[gguf] {}: {}{}: expected one value for all layers",
             metadata_.where(), prefix_, key);
      const Json single = {{prefix_ + key, value.front()}};
      return JsonObject(single, metadata_.where()).get_int(prefix_ + key, 0, kMost);
    }
    return metadata_.get_int(prefix_ + key, 0, kMost);
  }
  double number(const std::string& key) const { return metadata_.get_number(prefix_ + key); }
  bool has_one_of(std::span<const std::string_view> parts) const {
    return std::ranges::any_of(file_.tensors, [&](const auto& entry) {
      return std::ranges::any_of(
          parts, [&](std::string_view part) { return entry.first.ends_with(part); });
    });
  }
  bool has_tensor(const std::string& name) const { return file_.tensors.contains(name); }

  // The vocabulary size, from the embedding, which every file has.
  std::int64_t vocabulary() const {
    const auto found = file_.tensors.find("token_embd.weight");
    if (found == file_.tensors.end() || found->second.shape.size() != 2)
      fail(ErrorCode::kFormat, "[gguf] {}: expected the matrix token_embd.weight",
           metadata_.where());
    return found->second.shape[0];
  }

  void write_common() {
    config_["vocab_size"] = vocabulary();
    config_["hidden_size"] = size("embedding_length");
    config_["intermediate_size"] = size("feed_forward_length");
    config_["num_hidden_layers"] = size("block_count");
    const std::int64_t heads = size("attention.head_count");
    config_["num_attention_heads"] = heads;
    config_["num_key_value_heads"] =
        has("attention.head_count_kv") ? size("attention.head_count_kv") : heads;
    // transformers' configurations omit it if it is the usual quotient.
    const std::int64_t quotient = size("embedding_length") / std::max<std::int64_t>(heads, 1);
    const std::int64_t head_dim =
        has("attention.key_length") ? size("attention.key_length") : quotient;
    // Qwen3 has a default of its own instead.
    if (head_dim * heads != size("embedding_length") || architecture_.name == "qwen3")
      config_["head_dim"] = head_dim;
    if (has("rope.dimension_count") && head_dim > 0 && size("rope.dimension_count") != head_dim)
      config_["partial_rotary_factor"] =
          static_cast<double>(size("rope.dimension_count")) / static_cast<double>(head_dim);
    config_["max_position_embeddings"] = size("context_length");
    config_["rms_norm_eps"] = number("attention.layer_norm_rms_epsilon");
    config_["hidden_act"] = "silu";
    config_["tie_word_embeddings"] = !has_tensor("output.weight");
    if (architecture_.name == "llama") {
      // Each is optional; GgufStore has zeros for those that are missing.
      config_["attention_bias"] = has_one_of(kGgufAttentionBiases);
      config_["mlp_bias"] = has_one_of(kGgufMlpBiases);
      if (has("attention.sliding_window")) config_["model_type"] = "mistral";
    }
    if (has("attention.sliding_window") && size("attention.sliding_window") > 0)
      config_["sliding_window"] = size("attention.sliding_window");
    write_rope();
  }

  void write_rope() {
    const double base = has("rope.freq_base") ? number("rope.freq_base") : 10000.0;
    config_["rope_theta"] = base;
    if (const auto factors = file_.tensors.find("rope_freqs.weight");
        factors != file_.tensors.end()) {
      // The llama3 scaling, already evaluated: each inverse frequency is divided by its factor.
      config_["rope_parameters"] = {{"rope_type", "default"},
                                    {"rope_theta", base},
                                    {"frequency_factors", floats(factors->first)}};
      return;
    }
    const std::string type = metadata_.get_string_or(prefix_ + "rope.scaling.type", "");
    if (type.empty() || type == "none" || type == "longrope") return;
    const bool known = type == "linear" || type == "yarn";
    if (known && !has("rope.scaling.factor")) return;
    // A type that the model's reader does not know is for it to refuse.
    const double factor = has("rope.scaling.factor") ? number("rope.scaling.factor") : 1.0;
    Json scaling = {{"rope_type", type}, {"factor", factor}};
    if (has("rope.scaling.original_context_length"))
      scaling["original_max_position_embeddings"] = size("rope.scaling.original_context_length");
    for (const char* key : {"beta_fast", "beta_slow"}) {
      const std::string name = std::string("rope.scaling.yarn_") + key;
      if (has(name)) scaling[key] = number(name);
    }
    if (type == "yarn" && has("rope.scaling.attn_factor"))
      scaling["attention_factor"] =
          number("rope.scaling.attn_factor") * (1.0 + 0.1 * std::log(factor));
    config_["rope_scaling"] = std::move(scaling);
  }

  // A vector of factors; readers check their number.
  Json floats(const std::string& name) const {
    const GgufTensor& tensor = file_.tensors.at(name);
    if (tensor.type != GgmlType::kF32 || tensor.shape.size() != 1)
      fail(ErrorCode::kFormat, "[gguf] {}: {}: expected a vector of F32, got {} {}",
           metadata_.where(), name, to_string(tensor.type), to_string(tensor.shape));
    std::vector<float> values(static_cast<std::size_t>(tensor.shape[0]));
    dequantize_blocks(tensor.type, tensor.bytes, values);
    if (!std::ranges::all_of(values, [](float value) { return std::isfinite(value); }))
      fail(ErrorCode::kFormat, "[gguf] {}: {}: expected finite numbers", metadata_.where(), name);
    return values;
  }

  void write_phi3() {
    if (!has_tensor("rope_factors_long.weight") || !has_tensor("rope_factors_short.weight")) return;
    config_["rope_scaling"] = {{"type", "longrope"},
                               {"long_factor", floats("rope_factors_long.weight")},
                               {"short_factor", floats("rope_factors_short.weight")}};
    config_["original_max_position_embeddings"] = size("rope.scaling.original_context_length");
  }

  void write_gemma2() {
    config_.erase("hidden_act");
    config_["hidden_activation"] = "gelu_pytorch_tanh";
    config_["head_dim"] = size("attention.key_length");
    // llama.cpp recognises the 27B model, whose attention scale is based on hidden size / heads
    // instead of the head dim, by its 46 layers.
    config_["query_pre_attn_scalar"] = size("block_count") == 46 && size("attention.head_count") > 0
                                           ? size("embedding_length") / size("attention.head_count")
                                           : size("attention.key_length");
    for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
      if (has(key)) config_[key] = number(key);
    }
  }

  void write_chatglm() {
    config_["padded_vocab_size"] = vocabulary();
    config_["vocab_size"] = vocabulary();
    config_["hidden_size"] = size("embedding_length");
    config_["ffn_hidden_size"] = size("feed_forward_length");
    config_["num_layers"] = size("block_count");
    const std::int64_t heads = size("attention.head_count");
    config_["num_attention_heads"] = heads;
    config_["multi_query_attention"] = true;
    config_["multi_query_group_num"] = size("attention.head_count_kv");
    // Half of each head is rotated.
    config_["kv_channels"] = has("attention.key_length") ? size("attention.key_length")
                             : has("rope.dimension_count")
                                 ? size("rope.dimension_count") * 2
                                 : size("embedding_length") / std::max<std::int64_t>(heads, 1);
    config_["seq_length"] = size("context_length");
    config_["layernorm_epsilon"] = number("attention.layer_norm_rms_epsilon");
    config_["rope_ratio"] = has("rope.freq_base") ? number("rope.freq_base") / 10000.0 : 1.0;
    config_["add_qkv_bias"] = has_tensor("blk.0.attn_qkv.bias");
    config_["add_bias_linear"] = has_tensor("blk.0.attn_output.bias");
    config_["rmsnorm"] = true;
    config_["post_layer_norm"] = true;
    config_["apply_residual_connection_post_layernorm"] = false;
    config_["original_rope"] = true;
    config_["tie_word_embeddings"] = !has_tensor("output.weight");
  }

  void write_tokens() {
    const auto id = [&](const char* key) -> Json {
      const std::string name = std::string("tokenizer.ggml.") + key + "_token_id";
      if (!metadata_.has(name)) return {};
      return is_minus_one(metadata_.at(name)) ? Json(-1) : metadata_.at(name);
    };
    config_["bos_token_id"] = id("bos");
    if (const auto ends = gguf_end_tokens(metadata_))
      config_["eos_token_id"] = ends->size() == 1 ? Json(ends->front()) : Json(*ends);
    if (const Json pad = id("padding"); !pad.is_null()) config_["pad_token_id"] = pad;
  }

  const GgufFile& file_;
  const GgufArchitecture& architecture_;
  const JsonObject metadata_;
  const std::string prefix_;
  Json config_ = Json::object();
};

}  // namespace

GgufArchitecture architecture_of(const GgufFile& file, const std::string& place) {
  const JsonObject metadata(file.metadata, place);
  // Such as "adapter" (LoRA) and "mmproj" (the part of a model that sees).
  if (const std::string type = metadata.get_string_or("general.type", "model"); type != "model")
    fail(ErrorCode::kUnsupported,
         "[gguf] {}: general.type: expected \"model\", got \"{}\": it is not a model by itself",
         place, printable(type));
  const std::string name = metadata.get_string("general.architecture");
  const auto found = find_gguf_architecture(name);
  if (!found)
    fail(ErrorCode::kUnsupported, "[gguf] {}: general.architecture: expected one of {}, got \"{}\"",
         place, gguf_architectures(), printable(name));
  return *found;
}

Json config_from_gguf(const GgufFile& file, const GgufArchitecture& architecture,
                      const std::string& place) {
  return ConfigWriter(file, architecture, place).write();
}

}  // namespace tandem
