// The tokens <0x00> to <0xFF> of a vocabulary, the fallback for characters that it lacks.
#pragma once

#include <array>
#include <string_view>
#include <vector>

#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/vocabulary.h"

namespace tandem {

class ByteTokens {
 public:
  explicit ByteTokens(const Vocabulary& vocabulary);
  // Appends one token per byte. Returns false, appending nothing, if one of them is not in the
  // vocabulary.
  bool append(std::string_view bytes, std::vector<TokenId>& ids) const;
  bool contains(TokenId id) const noexcept;

 private:
  // -1: no such token.
  std::array<TokenId, 256> ids_;
};

}  // namespace tandem
