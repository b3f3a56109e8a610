// The names of tensors in GGUF and in Hugging Face transformers.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tandem {

// A GGUF architecture that can be read and written.
struct GgufArchitecture {
  // The value of general.architecture.
  std::string_view name;
  // The model_type of config.json.
  std::string_view model_type;
  // q and k store rotation pairs in adjacent rows: GGUF rotates rows 2i and 2i + 1 of a head,
  // transformers rows i and i + head_dim / 2.
  bool paired_rows = false;
  // Norm gains are stored as 1 + weight.
  bool norms_plus_one = false;
};

// Returns nullopt for an unknown architecture.
std::optional<GgufArchitecture> find_gguf_architecture(std::string_view name);
std::optional<GgufArchitecture> find_gguf_architecture_of(std::string_view model_type);
// For messages: "llama, qwen2, …".
std::string gguf_architectures();

// "blk.3.attn_q.weight" <-> "model.layers.3.self_attn.q_proj.weight". Return nullopt for a tensor
// that the architecture does not have.
std::optional<std::string> name_from_gguf(const GgufArchitecture& architecture,
                                          std::string_view name);
std::optional<std::string> name_to_gguf(const GgufArchitecture& architecture,
                                        std::string_view name);

}  // namespace tandem
