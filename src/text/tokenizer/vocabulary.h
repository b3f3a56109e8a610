// Tokens by text and by id.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem {

class Vocabulary {
 public:
  // The object {"token": id, …} at `key`. Ids may have gaps; memory depends on the number of
  // tokens, not on the highest id. Throws kFormat for an id out of range or used twice.
  static Vocabulary from_json(const JsonObject& model, std::string_view key);

  // Token i has id i. Of duplicate tokens find() returns the last.
  static Vocabulary from_list(const std::vector<std::string>& tokens);

  std::size_t size() const noexcept { return tokens_.size(); }
  TokenId highest_id() const noexcept { return tokens_.empty() ? -1 : tokens_.back().id; }
  std::optional<TokenId> find(std::string_view token) const noexcept;
  std::optional<std::string_view> token(TokenId id) const noexcept;

 private:
  struct Token {
    // Index into text_.
    std::uint32_t begin;
    std::uint32_t length;
    TokenId id;
  };
  std::string_view text_of(const Token& token) const noexcept {
    return std::string_view(text_).substr(token.begin, token.length);
  }
  void index();

  // The text of all tokens, concatenated.
  std::string text_;
  // Sorted by id.
  std::vector<Token> tokens_;
  // Open addressing by hash of the text: index in tokens_ + 1, 0 if free.
  std::vector<std::uint32_t> slots_;
};

}  // namespace tandem
