// The tables of architectures and names.
#include "checkpoint/gguf/gguf_names.h"

#include <fmt/format.h>

#include <array>
#include <span>

namespace tandem {
namespace {

// chatglm pairs adjacent rows in both formats; the other architectures that rotate halves are the
// same in both.
constexpr std::array kArchitectures = {
    GgufArchitecture{"llama", "llama", true}, GgufArchitecture{"llama", "mistral", true},
    GgufArchitecture{"qwen2", "qwen2"},       GgufArchitecture{"qwen3", "qwen3"},
    GgufArchitecture{"phi3", "phi3"},         GgufArchitecture{"gemma2", "gemma2", false, true},
    GgufArchitecture{"chatglm", "chatglm"},   GgufArchitecture{"smollm3", "smollm3", true},
};

struct Pair {
  std::string_view gguf;
  std::string_view transformers;
};

struct Names {
  // Such as "model.layers.".
  std::string_view layers;
  // Names outside the layers.
  std::span<const Pair> outside;
  std::span<const Pair> inside;
};

constexpr std::array kOutside = {
    Pair{"token_embd", "model.embed_tokens"},
    Pair{"output_norm", "model.norm"},
    Pair{"output", "lm_head"},
};

constexpr std::array kInside = {
    Pair{"attn_norm", "input_layernorm"},    Pair{"attn_q", "self_attn.q_proj"},
    Pair{"attn_k", "self_attn.k_proj"},      Pair{"attn_v", "self_attn.v_proj"},
    Pair{"attn_output", "self_attn.o_proj"}, Pair{"attn_q_norm", "self_attn.q_norm"},
    Pair{"attn_k_norm", "self_attn.k_norm"}, Pair{"ffn_norm", "post_attention_layernorm"},
    Pair{"ffn_gate", "mlp.gate_proj"},       Pair{"ffn_up", "mlp.up_proj"},
    Pair{"ffn_down", "mlp.down_proj"},
};

constexpr std::array kPhi3Inside = {
    Pair{"attn_norm", "input_layernorm"},    Pair{"attn_qkv", "self_attn.qkv_proj"},
    Pair{"attn_output", "self_attn.o_proj"}, Pair{"ffn_norm", "post_attention_layernorm"},
    Pair{"ffn_up", "mlp.gate_up_proj"},      Pair{"ffn_down", "mlp.down_proj"},
};

constexpr std::array kGemma2Inside = {
    Pair{"attn_norm", "input_layernorm"},
    Pair{"attn_q", "self_attn.q_proj"},
    Pair{"attn_k", "self_attn.k_proj"},
    Pair{"attn_v", "self_attn.v_proj"},
    Pair{"attn_output", "self_attn.o_proj"},
    Pair{"post_attention_norm", "post_attention_layernorm"},
    Pair{"ffn_norm", "pre_feedforward_layernorm"},
    Pair{"ffn_gate", "mlp.gate_proj"},
    Pair{"ffn_up", "mlp.up_proj"},
    Pair{"ffn_down", "mlp.down_proj"},
    Pair{"post_ffw_norm", "post_feedforward_layernorm"},
};

constexpr std::array kChatGlmOutside = {
    Pair{"token_embd", "transformer.embedding.word_embeddings"},
    Pair{"output_norm", "transformer.encoder.final_layernorm"},
    Pair{"output", "transformer.output_layer"},
};

constexpr std::array kChatGlmInside = {
    Pair{"attn_norm", "input_layernorm"},        Pair{"attn_qkv", "self_attention.query_key_value"},
    Pair{"attn_output", "self_attention.dense"}, Pair{"ffn_norm", "post_attention_layernorm"},
    Pair{"ffn_up", "mlp.dense_h_to_4h"},         Pair{"ffn_down", "mlp.dense_4h_to_h"},
};

Names names_of(const GgufArchitecture& architecture) {
  if (architecture.name == "chatglm")
    return {"transformer.encoder.layers.", kChatGlmOutside, kChatGlmInside};
  if (architecture.name == "phi3") return {"model.layers.", kOutside, kPhi3Inside};
  if (architecture.name == "gemma2") return {"model.layers.", kOutside, kGemma2Inside};
  return {"model.layers.", kOutside, kInside};
}

// Translates `name` from one member of the pairs to the other. The layer number and the suffix
// ".weight" or ".bias" stay the same.
std::optional<std::string> translate(std::string_view name, std::string_view Pair::* from,
                                     std::string_view Pair::* to, std::string_view layers_from,
                                     std::string_view layers_to, const Names& names) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view suffix = name.substr(dot);
  std::string_view base = name.substr(0, dot);
  if (suffix != ".weight" && suffix != ".bias") return std::nullopt;
  std::string prefix;
  std::span<const Pair> pairs = names.outside;
  if (base.starts_with(layers_from)) {
    base.remove_prefix(layers_from.size());
    const std::size_t digits = base.find('.');
    if (digits == 0 || digits == std::string_view::npos ||
        base.find_first_not_of("0123456789") != digits)
      return std::nullopt;
    prefix = fmt::format("{}{}.", layers_to, base.substr(0, digits));
    base.remove_prefix(digits + 1);
    pairs = names.inside;
  }
  for (const Pair& pair : pairs)
    if (pair.*from == base) return fmt::format("{}{}{}", prefix, pair.*to, suffix);
  return std::nullopt;
}

constexpr std::string_view kGgufLayers = "blk.";

}  // namespace

std::optional<GgufArchitecture> find_gguf_architecture(std::string_view name) {
  for (const GgufArchitecture& architecture : kArchitectures)
    if (architecture.name == name) return architecture;
  return std::nullopt;
}

std::optional<GgufArchitecture> find_gguf_architecture_of(std::string_view model_type) {
  for (const GgufArchitecture& architecture : kArchitectures)
    if (architecture.model_type == model_type) return architecture;
  return std::nullopt;
}

std::string gguf_architectures() {
  std::string list;
  std::string_view last;
  for (const GgufArchitecture& architecture : kArchitectures) {
    if (architecture.name != last)
      list += fmt::format("{}{}", list.empty() ? "" : ", ", architecture.name);
    last = architecture.name;
  }
  return list;
}

std::optional<std::string> name_from_gguf(const GgufArchitecture& architecture,
                                          std::string_view name) {
  const Names names = names_of(architecture);
  return translate(name, &Pair::gguf, &Pair::transformers, kGgufLayers, names.layers, names);
}

std::optional<std::string> name_to_gguf(const GgufArchitecture& architecture,
                                        std::string_view name) {
  const Names names = names_of(architecture);
  return translate(name, &Pair::transformers, &Pair::gguf, names.layers, kGgufLayers, names);
}

}  // namespace tandem
