// Reads tokenizer.json part by part, so that every error names the file and the key.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace tandem {

// No known vocabulary is a tenth as large; a larger id means a damaged file.
inline constexpr std::int64_t kMaxTokenId = (std::int64_t{1} << 24) - 1;

// True in what is made of other formats, whose added tokens have the ids that they are listed with,
// with gaps between them: tokenizer.json numbers them itself (see AddedTokens).
inline constexpr std::string_view kKeepAddedIds = "added_tokens_keep_ids";

// "PATH: key.sub", in the format of JsonObject's errors.
std::string key_place(const JsonObject& object, std::string_view key);

// The array of objects at `key`. Throws kFormat if it is something else, kNotFound if it is
// missing.
std::vector<JsonObject> get_objects(const JsonObject& object, std::string_view key);

// The array of strings at `key`, empty if it is missing. Throws kFormat if it is something else.
std::vector<std::string> get_strings(const JsonObject& object, std::string_view key);

// The text of `json`; throws kFormat naming `place` if it is not a string.
std::string_view expect_string(const Json& json, std::string_view place);

// `json` as a token id in [0, kMaxTokenId]; nullopt if it is not one.
std::optional<std::int32_t> as_token_id(const Json& json) noexcept;

// The same; throws kFormat naming `place` if it is not one.
std::int32_t expect_token_id(const Json& json, std::string_view place);

// The array of token ids at `key`, empty if it is missing. Throws kFormat if it is something else.
std::vector<std::int32_t> get_token_ids(const JsonObject& object, std::string_view key);

// One character, such as the "replacement" of Metaspace.
char32_t get_character(const JsonObject& object, std::string_view key);

// The "type" of a component of the pipeline.
std::string component_type(const JsonObject& component);

// Throws kUnsupported naming the file, the key and the type; `stage` is what was being read, such
// as "normalizer".
[[noreturn]] void fail_unknown_component(const JsonObject& component, std::string_view stage);

// A short description of a JSON value: `"x"`, `[…] of 3`, `-1`.
std::string describe(const Json& json);

}  // namespace tandem
