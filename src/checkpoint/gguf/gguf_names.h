// What GGUF and Hugging Face transformers call the same tensor.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tandem {

// One architecture of GGUF that is read and written here.
struct GgufArchitecture {
  std::string_view name;        // general.architecture
  std::string_view model_type;  // of config.json
  // q and k have their rows in pairs: rotary embedding turns rows 2i and 2i + 1 of a head there,
  // and rows i and i + head_dim / 2 in transformers.
  bool paired_rows = false;
  bool norms_plus_one = false;  // norm gains are stored as 1 + weight
};

// Nothing for an architecture that is not known here.
std::optional<GgufArchitecture> find_gguf_architecture(std::string_view name);
std::optional<GgufArchitecture> find_gguf_architecture_of(std::string_view model_type);
std::string gguf_architectures();  // for messages: "llama, qwen2, …"

// "blk.3.attn_q.weight" <-> "model.layers.3.self_attn.q_proj.weight". Nothing for a tensor that the
// architecture does not have.
std::optional<std::string> name_from_gguf(const GgufArchitecture& architecture,
                                          std::string_view name);
std::optional<std::string> name_to_gguf(const GgufArchitecture& architecture,
                                        std::string_view name);

}  // namespace tandem
