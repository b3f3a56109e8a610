// Builds parts of a tokenizer.json, for the readers of other formats.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/tokenizer_config.h"

namespace tandem {

// Expressions for splitting text into words, named after the first model that used them.
inline constexpr std::string_view kLlama3Expression =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kQwen2Expression =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// An entry of "added_tokens" that is matched in the unnormalized text.
Json added_token(TokenId id, const std::string& content, bool special);

// Sets "pre_tokenizer" and "decoder" of byte-level BPE that splits text at the matches of each
// expression in turn.
void set_byte_level(Json& tokenizer, const std::vector<std::string_view>& expressions);

// Sets "normalizer" and "decoder" that represent spaces as U+2581; `prefix` prepends one to each
// text.
void set_spaces_visible(Json& tokenizer, bool prefix);
// Only the decoder, which also removes the space added by `prefix`.
Json visible_spaces_decoder(bool prefix, bool byte_fallback);

// Sets "added_tokens", which keep their ids.
void set_added_tokens(Json& tokenizer, const std::map<TokenId, Json>& tokens);

// Sets "post_processor": the tokens before and after each text. Tokens that are not in `added` are
// skipped.
void set_around(Json& tokenizer, const std::map<TokenId, Json>& added,
                const std::vector<std::string>& before, const std::vector<std::string>& behind);

// The id of the added token with this content.
std::optional<TokenId> find_added(const std::map<TokenId, Json>& added, std::string_view content);

// Adds the tokens of `config` to `added`, and to `vocabulary` ({"token": id}) if they rename one of
// its tokens.
void merge_added_tokens(const TokenizerConfig& config, std::map<TokenId, Json>& added,
                        Json& vocabulary);

}  // namespace tandem
