// A GGUF file as a checkpoint: its metadata translated to config.json's keys, its tensors with the
// names and the layout of Hugging Face transformers.
#pragma once

#include <array>
#include <memory>
#include <string_view>

#include "base/json.h"
#include "checkpoint/gguf/gguf.h"
#include "checkpoint/gguf/gguf_names.h"
#include "checkpoint/tensor_store.h"

namespace tandem {

// The biases of a Llama's Linears, of which a file may have some: the others are zero.
inline constexpr std::array<std::string_view, 4> kGgufAttentionBiases = {
    ".attn_q.bias", ".attn_k.bias", ".attn_v.bias", ".attn_output.bias"};
inline constexpr std::array<std::string_view, 3> kGgufMlpBiases = {".ffn_gate.bias", ".ffn_up.bias",
                                                                   ".ffn_down.bias"};

// The configuration described by `file`; `place` names it in messages. Throws kUnsupported for an
// unknown architecture. Sizes are passed on as they are in the file: the reader of the
// configuration checks them.
Json config_from_gguf(const GgufFile& file, const GgufArchitecture& architecture,
                      const std::string& place);

// The architecture of `file`; throws kUnsupported listing the supported ones for any other.
GgufArchitecture architecture_of(const GgufFile& file, const std::string& place);

// The tensors: rows of q and k are permuted back to the order of transformers, and the offset that
// the converter added to norms is removed. Q4_0 stays in four bits (GroupCodes with group size 32
// and zero point 8); other blocks are dequantized to F16 (MXFP4: BF16) when loaded.
std::shared_ptr<const TensorStore> open_gguf_tensors(GgufFile file,
                                                     const GgufArchitecture& architecture,
                                                     const JsonObject& config,
                                                     const std::string& place);

}  // namespace tandem
