// Byte-level BPE in two files: the tokens, and the merges as lines of text.
#pragma once

#include <string_view>

#include "base/files.h"
#include "base/json.h"

namespace tandem {

// The merges file that belongs to `vocabulary`, whose name ends with `suffix` ("vocab.json"): that
// name with "merges.txt" instead of the suffix, or the folder's merges.txt. Throws kNotFound.
fs::path find_merges(const fs::path& vocabulary, std::string_view suffix);

// ["a b", …], one per line; the line "#version: …" and empty lines are skipped.
Json read_merges_file(const fs::path& file);

// A tokenizer with these tokens and merges and the settings next to `file`. If the settings name no
// special tokens, those spelled "<|name|>" are special.
Json byte_level_tokenizer(const fs::path& file, Json vocabulary, Json merges, bool qwen);

}  // namespace tandem
