// Drafts for speculative decoding without a second model: what followed the last few tokens where
// they stood before, in the prompt or in the answer (Saxena 2023, "Prompt Lookup Decoding").
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "text/tokenizer/tokenizer.h"

namespace tandem {

// The `most` tokens that would follow `text` if it went on as it did after an earlier run of tokens
// that is also its end: the longest such run (up to 8 tokens), and the latest of several. Text that
// repeats itself at its end goes on doing so. Empty if not even the last two tokens stood together
// before. Linear in the length of the text.
std::vector<TokenId> look_up(std::span<const TokenId> text, std::size_t most);

}  // namespace tandem
