// Formats other than tokenizer.json, each read as the tokenizer.json that it stands for. All throw
// kFormat naming the file and the place, kUnsupported for a kind that is not known.
#pragma once

#include <string_view>

#include "base/files.h"
#include "base/json.h"

namespace tandem {

// SentencePiece's tokenizer.model: a protobuf message of pieces, scores and settings.
Json read_sentencepiece_model(const fs::path& file, std::string_view bytes);

// tiktoken's lines "base64 rank", as Llama 3 and Qwen publish them.
Json read_tiktoken(const fs::path& file, std::string_view bytes);

// mllm's vocabulary, with the merges in the text file beside it.
Json read_mllm_vocabulary(const fs::path& file, std::string_view bytes);

// {"token": id, …} of `file`, with the merges in merges.txt beside it.
Json read_vocabulary_with_merges(const fs::path& file, Json vocabulary);

// tokenizer.ggml.* in the metadata of a GGUF.
Json read_gguf_vocabulary(const fs::path& file);

}  // namespace tandem
