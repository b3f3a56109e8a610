// Encodes and decodes text with a tokenizer from a file.
#pragma once

#include <string>
#include <string_view>

#include "fuzz.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem::fuzz {

inline void exercise(const Tokenizer& tokenizer, std::string_view text) {
  for (const bool special : {true, false}) {
    const std::vector<TokenId> ids =
        tokenizer.encode(text, {.add_special_tokens = special, .parse_special_tokens = special});
    for (const TokenId id : ids)
      require(id >= 0 && id < tokenizer.vocabulary_size(), "an id outside the vocabulary");
    TokenStream stream(tokenizer, special);
    std::string streamed;
    for (const TokenId id : ids) streamed += stream.put(id);
    streamed += stream.finish();
    require(streamed == tokenizer.decode(ids, special), "the stream decodes to another text");
  }
}

}  // namespace tandem::fuzz
