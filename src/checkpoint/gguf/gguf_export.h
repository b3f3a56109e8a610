// A checkpoint as a GGUF file that llama.cpp loads and chats with.
#pragma once

#include <functional>

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf/gguf_names.h"
#include "checkpoint/gguf/gguf_writer.h"

namespace tandem {

// Writes `checkpoint` with matrices in `type` (F32, F16, BF16, Q8_0, Q4_0 or Q4_1) and vectors in
// F32. Beside Q4_0 and Q4_1 the embedding and the head are Q8_0; a matrix whose rows are not whole
// blocks is F16. The vocabulary and the chat template come from tokenizer.json and
// tokenizer_config.json in the checkpoint's folder. `written` is called after each tensor.
// kUnsupported for a model type or a tokenizer that has no form in GGUF.
void write_gguf(const fs::path& path, const Checkpoint& checkpoint, GgmlType type,
                const std::function<void()>& written);

// Parts of it: sizes and rope settings from config.json; tokens, merges and special tokens.
void add_gguf_sizes(GgufMetadata& metadata, const GgufArchitecture& architecture,
                    const JsonObject& config);
void add_gguf_vocabulary(GgufMetadata& metadata, const fs::path& folder, const JsonObject& config);

// Tables of rope factors that go into the file as tensors: name and values.
std::vector<std::pair<std::string, std::vector<float>>> gguf_rope_tables(
    const GgufArchitecture& architecture, const JsonObject& config);

}  // namespace tandem
