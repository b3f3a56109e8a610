// Which tokens of a GGUF file end an answer.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace tandem {

// The ids that end an answer, eos_token_id first. A file that lists them
// ("tokenizer.ggml.eos_token_ids", which may be empty) means exactly those. Any other file means
// what llama.cpp takes from it: the tokens of every key for an end (of the text, a turn, a message,
// a file), and those that end a turn or a text by their spelling. Empty if the file names none, in
// which case the family's default holds; -1 among them is no token. Throws kFormat for an id that
// is not a number.
std::optional<std::vector<std::int64_t>> gguf_end_tokens(const JsonObject& metadata);

// True for -1 in any width, which writers of GGUF use for a token that there is not.
bool is_minus_one(const Json& value);

// True for a spelling that llama.cpp takes for an end without being told, such as "<|im_end|>".
bool is_end_by_name(std::string_view token);

}  // namespace tandem
