// A vocabulary as one block of text, an array sorted by id and a hash table.
#include "text/tokenizer/vocabulary.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>

#include "base/error.h"
#include "text/tokenizer/tokenizer_json.h"

namespace tandem {

Vocabulary Vocabulary::from_json(const JsonObject& model, std::string_view key) {
  const Json& json = model.at(key);
  const std::string place = key_place(model, key);
  if (!json.is_object()) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected an object of tokens and their ids, got {}",
         place, describe(json));
  }
  Vocabulary vocabulary;
  vocabulary.tokens_.reserve(json.size());
  for (const auto& [token, id] : json.items()) {
    const auto begin = static_cast<std::uint32_t>(vocabulary.text_.size());
    const std::optional<TokenId> checked = as_token_id(id);
    if (!checked) expect_token_id(id, fmt::format("{}[\"{}\"]", place, token));
    vocabulary.tokens_.push_back({begin, static_cast<std::uint32_t>(token.size()), *checked});
    vocabulary.text_ += token;
  }
  std::sort(vocabulary.tokens_.begin(), vocabulary.tokens_.end(),
            [](const Token& a, const Token& b) { return a.id < b.id; });
  for (std::size_t i = 1; i < vocabulary.tokens_.size(); ++i) {
    const Token& a = vocabulary.tokens_[i - 1];
    const Token& b = vocabulary.tokens_[i];
    if (a.id == b.id) {
      fail(ErrorCode::kFormat, "[tokenizer] {}: tokens \"{}\" and \"{}\" have the same id {}",
           place, vocabulary.text_of(a), vocabulary.text_of(b), a.id);
    }
  }
  vocabulary.index();
  return vocabulary;
}

Vocabulary Vocabulary::from_list(const std::vector<std::string>& tokens) {
  Vocabulary vocabulary;
  vocabulary.tokens_.reserve(tokens.size());
  for (const std::string& token : tokens) {
    const auto begin = static_cast<std::uint32_t>(vocabulary.text_.size());
    const auto id = static_cast<TokenId>(vocabulary.tokens_.size());
    vocabulary.tokens_.push_back({begin, static_cast<std::uint32_t>(token.size()), id});
    vocabulary.text_ += token;
  }
  vocabulary.index();
  return vocabulary;
}

void Vocabulary::index() {
  slots_.assign(std::bit_ceil(2 * tokens_.size() + 1), 0);
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    const std::string_view text = text_of(tokens_[i]);
    std::size_t slot = XXH3_64bits(text.data(), text.size()) & mask;
    while (slots_[slot] != 0 && text_of(tokens_[slots_[slot] - 1]) != text) {
      slot = (slot + 1) & mask;
    }
    slots_[slot] = static_cast<std::uint32_t>(i + 1);
  }
}

std::optional<TokenId> Vocabulary::find(std::string_view token) const noexcept {
  if (slots_.empty()) return std::nullopt;
  const std::size_t mask = slots_.size() - 1;
  std::size_t slot = XXH3_64bits(token.data(), token.size()) & mask;
  for (; slots_[slot] != 0; slot = (slot + 1) & mask) {
    const Token& candidate = tokens_[slots_[slot] - 1];
    if (text_of(candidate) == token) return candidate.id;
  }
  return std::nullopt;
}

std::optional<std::string_view> Vocabulary::token(TokenId id) const noexcept {
  const auto index = static_cast<std::size_t>(id);
  // Nearly every vocabulary has ids without gaps.
  if (id >= 0 && index < tokens_.size() && tokens_[index].id == id) return text_of(tokens_[index]);
  const auto it =
      std::lower_bound(tokens_.begin(), tokens_.end(), id,
                       [](const Token& token, TokenId wanted) { return token.id < wanted; });
  if (it == tokens_.end() || it->id != id) return std::nullopt;
  return text_of(*it);
}

}  // namespace tandem
