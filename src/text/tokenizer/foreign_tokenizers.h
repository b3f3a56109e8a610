// Formats other than tokenizer.json, each converted to the equivalent tokenizer.json. All functions
// throw kFormat naming the file and the location, and kUnsupported for an unknown variant.
#pragma once

#include <string_view>

#include "base/files.h"
#include "base/json.h"
#include "base/observer.h"

namespace tandem {

// SentencePiece's tokenizer.model: a protobuf message of pieces, scores and settings.
Json read_sentencepiece_model(const fs::path& file, std::string_view bytes);

// tiktoken's lines "base64 rank", as published with Llama 3 and Qwen.
Json read_tiktoken(const fs::path& file, std::string_view bytes);

// mllm's vocabulary, with the merges in a text file, empty: in the one next to it.
Json read_mllm_vocabulary(const fs::path& file, std::string_view bytes, const fs::path& merges);

// {"token": id, …} of `file`, with the merges in a text file, empty: in merges.txt next to it.
Json read_vocabulary_with_merges(const fs::path& file, Json vocabulary, const fs::path& merges);

// tokenizer.ggml.* in the metadata of a GGUF. Warns of a file that does not say how to cut text in
// words.
Json read_gguf_vocabulary(const fs::path& file, Observer& observer);

}  // namespace tandem
