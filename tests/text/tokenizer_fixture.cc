// Decoding through TokenStream with its promise checked at every step.
#include "text/tokenizer_fixture.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "text/tokenizer/unicode.h"

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

std::string hash_of(const std::vector<TokenId>& ids) {
  std::uint64_t value = 0xCBF29CE484222325;
  for (const TokenId id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      value = (value ^ ((static_cast<std::uint32_t>(id) >> shift) & 0xFF)) * 0x100000001B3;
    }
  }
  return fmt::format("{:016x}", value);
}

}  // namespace tandem::testing
