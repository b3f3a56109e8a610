// Decoding through TokenStream with its promise checked at every step.
#include "text/tokenizer_fixture.h"

#include <gtest/gtest.h>

#include "text/unicode.h"

namespace tandem::testing {

std::string decode_streaming(const Tokenizer& tokenizer, const std::vector<TokenId>& ids,
                             bool skip) {
  TokenStream stream(tokenizer, skip);
  std::string joined;
  for (const TokenId id : ids) {
    const std::string piece = stream.put(id);
    EXPECT_TRUE(is_valid_utf8(piece)) << "half a character after token " << id;
    joined += piece;
  }
  return joined + stream.finish();
}

}  // namespace tandem::testing
