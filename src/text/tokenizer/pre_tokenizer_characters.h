// The pre-tokenizers that split text by character class.
#pragma once

#include <memory>
#include <string_view>

#include "text/tokenizer/pre_tokenizer.h"

namespace tandem {

// Digits, Punctuation, Whitespace, WhitespaceSplit, CharDelimiterSplit or BertPreTokenizer; null
// for any other `type`.
std::unique_ptr<PreTokenizer> make_character_pre_tokenizer(const JsonObject& config,
                                                           std::string_view type);

}  // namespace tandem
