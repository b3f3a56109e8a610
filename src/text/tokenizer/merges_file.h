// Byte-level BPE in two files: the tokens, and the merges as lines of text.
#pragma once

#include <string_view>

#include "base/files.h"
#include "base/json.h"

namespace tandem {

// The file of merges that belongs to `vocabulary`, whose name ends with `suffix` ("vocab.json"):
// that name with "merges.txt" in place of the suffix, or the folder's merges.txt. Throws kNotFound.
fs::path find_merges(const fs::path& vocabulary, std::string_view suffix);

// ["a b", …], one per line; the line "#version: …" and empty ones are left out.
Json read_merges_file(const fs::path& file);

// A tokenizer of these tokens and merges with the settings beside `file`. What is spelled
// "<|name|>" is a special token, if the settings name none.
Json byte_level_tokenizer(const fs::path& file, Json vocabulary, Json merges, bool qwen);

}  // namespace tandem
