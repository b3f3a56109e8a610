// Exports a checkpoint as a GGUF file that llama.cpp can load and chat with.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/observer.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf/gguf_names.h"
#include "checkpoint/gguf/gguf_writer.h"

namespace tandem {

// Writes `checkpoint` with matrices mostly in `type` (gguf_mixture.h: F32, F16, BF16, Q8_0, Q4_0,
// Q4_1, Q4_K or Q6_K) and vectors in F32. The vocabulary and the chat template come from
// tokenizer.json and tokenizer_config.json in the checkpoint's folder. `observer` receives the task
// "convert" and warnings about settings that llama.cpp ignores and about matrices that got a type of
// smaller blocks, and can cancel (kCancelled; nothing is written). Left out are tensors that the
// architecture has no place for, those that are not among `wanted` (null: all are wanted), and a
// head that is the embedding.
// `ends` are the tokens that end an answer; default: those of generation_config.json, else of
// config.json.
// Throws kUnsupported for a model type or a tokenizer that GGUF cannot represent.
void write_gguf(const fs::path& path, const Checkpoint& checkpoint, GgmlType type,
                Observer& observer = silent(),
                std::optional<std::vector<std::int64_t>> ends = std::nullopt,
                const std::set<std::string>* wanted = nullptr);

// A tensor on its way to a GGUF file.
struct GgufContent {
  // The elements or blocks of rows [begin, begin + count) of the outermost dimension; a vector is
  // read whole.
  using Read = std::function<std::vector<std::byte>(std::int64_t begin, std::int64_t count)>;

  // Name and order of rows are transformers'; norms' gains are as they stand in a GGUF.
  std::string name;
  Shape shape;
  GgmlType type;
  // Called once, when the tensor is written.
  std::function<Read()> open;
};

// The architecture that a checkpoint has in GGUF; throws kUnsupported naming its model type.
GgufArchitecture gguf_architecture_of(const Checkpoint& checkpoint);

// What write_gguf() does with contents of any origin; the rest is that of `checkpoint`. `type` is
// what most matrices have. Each name must have a form in the architecture. The task is named `task`.
// With `is_outline`, metadata, rope tables and the list of tensors are all that is written: a file
// that can be opened to see what becomes of a model, without its elements.
void write_gguf_contents(const fs::path& path, const Checkpoint& checkpoint, GgmlType type,
                         const std::vector<GgufContent>& contents, std::string_view task,
                         Observer& observer, std::optional<std::vector<std::int64_t>> ends,
                         bool is_outline = false);

// A line for the user about matrices that fell back to other types (GgufMixture).
void warn_of_fallback(std::int64_t count, GgmlType type, Observer& observer);

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
