// Looks up the byte tokens once, by name.
#include "text/tokenizer/byte_tokens.h"

#include <fmt/format.h>

#include <algorithm>

namespace tandem {

ByteTokens::ByteTokens(const Vocabulary& vocabulary) {
  for (std::size_t byte = 0; byte < ids_.size(); ++byte) {
    ids_[byte] = vocabulary.find(fmt::format("<0x{:02X}>", byte)).value_or(-1);
  }
}

bool ByteTokens::append(std::string_view bytes, std::vector<TokenId>& ids) const {
  const auto token = [&](char c) { return ids_[static_cast<unsigned char>(c)]; };
  if (std::any_of(bytes.begin(), bytes.end(), [&](char c) { return token(c) < 0; })) return false;
  for (const char c : bytes) ids.push_back(token(c));
  return true;
}

bool ByteTokens::contains(TokenId id) const noexcept {
  return std::find(ids_.begin(), ids_.end(), id) != ids_.end();
}

}  // namespace tandem
