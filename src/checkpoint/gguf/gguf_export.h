// Exports a checkpoint as a GGUF file that llama.cpp can load and chat with.
#pragma once

#include <optional>
#include <set>
#include <vector>

#include "base/observer.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf/gguf_names.h"
#include "checkpoint/gguf/gguf_writer.h"

namespace tandem {

// Writes `checkpoint` with matrices in `type` (F32, F16, BF16, Q8_0, Q4_0 or Q4_1) and vectors in
// F32. With Q4_0 and Q4_1, the embedding and the head are Q8_0; a matrix whose rows are not a
// multiple of the block size is F16. The vocabulary and the chat template come from tokenizer.json
// and tokenizer_config.json in the checkpoint's folder. `observer` receives the task "convert" and
// warnings about settings that llama.cpp ignores, and can cancel (kCancelled; nothing is written).
// Left out are tensors that the architecture has no place for, those that are not among `wanted`
// (null: all are wanted), and a head that is the embedding.
// `ends` are the tokens that end an answer; default: those of generation_config.json, else of
// config.json.
// Throws kUnsupported for a model type or a tokenizer that GGUF cannot represent.
void write_gguf(const fs::path& path, const Checkpoint& checkpoint, GgmlType type,
                Observer& observer = silent(),
                std::optional<std::vector<std::int64_t>> ends = std::nullopt,
                const std::set<std::string>* wanted = nullptr);

// The parts of the metadata: sizes and rope settings from config.json; tokens, merges and special
// tokens.
void add_gguf_sizes(GgufMetadata& metadata, const GgufArchitecture& architecture,
                    const JsonObject& config, Observer& observer);
void add_gguf_vocabulary(GgufMetadata& metadata, const fs::path& folder, const JsonObject& config,
                         std::vector<std::int64_t> ends, Observer& observer);

// Tables of rope factors that are stored as tensors: name and values.
std::vector<std::pair<std::string, std::vector<float>>> gguf_rope_tables(
    const GgufArchitecture& architecture, const JsonObject& config);

}  // namespace tandem
