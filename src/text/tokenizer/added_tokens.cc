// Reading "added_tokens", and the search: leftmost, then longest, then the token's own conditions.
#include "text/tokenizer/added_tokens.h"

#include <algorithm>

#include "base/error.h"
#include "text/tokenizer/tokenizer_json.h"

namespace tandem {
namespace {

// The longest ones in use have fewer than 100 bytes; the limit bounds the steps of a search per
// byte of text.
constexpr std::size_t kMaxContentBytes = 1024;

// True for an id beyond what is a token's here, of 32 bits as in Hugging Face's tokenizers, which
// number such a token like any other.
bool is_far_id(const Json& id) {
  return id.is_number_unsigned() &&
         id.get<std::uint64_t>() > static_cast<std::uint64_t>(kMaxTokenId) &&
         id.get<std::uint64_t>() <= UINT32_MAX;
}

// `keep_id`: the id is the token's own; else it is only listed.
AddedToken read_token(const JsonObject& config, bool keep_id) {
  AddedToken token;
  const Json& id = config.at("id");
  if (keep_id || !is_far_id(id)) token.id = expect_token_id(id, key_place(config, "id"));
  token.content = config.get_string("content");
  if (token.content.size() > kMaxContentBytes) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected at most {} bytes, got {}",
         key_place(config, "content"), kMaxContentBytes, token.content.size());
  }
  token.special = config.get_bool_or("special", false);
  token.normalized = config.get_bool_or("normalized", !token.special);
  token.left_strip = config.get_bool_or("lstrip", false);
  token.right_strip = config.get_bool_or("rstrip", false);
  token.single_word = config.get_bool_or("single_word", false);
  return token;
}

bool ends_with_word(std::string_view text) {
  if (text.empty()) return false;
  std::size_t at = previous_boundary(text, text.size());
  return is_word_character(next_character(text, at));
}

bool starts_with_word(std::string_view text) {
  std::size_t at = 0;
  return !text.empty() && is_word_character(next_character(text, at));
}

// Whether any of `spans` shares a byte with `range`.
bool touches(std::span<const TextSpan> spans, const TextSpan& range) {
  // The first span that ends after the beginning of `range`.
  const auto it =
      std::upper_bound(spans.begin(), spans.end(), range.begin,
                       [](std::size_t place, const TextSpan& span) { return place < span.end; });
  return it != spans.end() && it->begin < range.end;
}

}  // namespace

AddedTokens::AddedTokens(const JsonObject& root, const Vocabulary& vocabulary,
                         const Normalizer* normalizer) {
  if (!root.has("added_tokens")) return;
  const bool keep_ids = root.get_bool_or(kKeepAddedIds, false);
  // The number of tokens, which is not the highest id + 1 where ids have gaps.
  auto next = static_cast<TokenId>(vocabulary.size());
  // What is searched for.
  std::map<TokenId, std::string> sought;
  for (const JsonObject& config : get_objects(root, "added_tokens")) {
    AddedToken token = read_token(config, keep_ids);
    highest_listed_id_ = std::max(highest_listed_id_, token.id);
    if (token.content.empty()) continue;
    if (keep_ids) {
      require_own_id(token, vocabulary, config);
    } else {
      token.id = assigned_id(token.content, vocabulary, next);
    }
    std::string& content = sought[token.id] = token.content;
    if (token.normalized && normalizer != nullptr) normalizer->apply(content);
    // Normalization may leave an empty string, or one longer than the search limit.
    if (content.size() > kMaxContentBytes * 4) {
      fail(ErrorCode::kFormat,
           "[tokenizer] {}: normalized, this content has {} bytes, expected at most {}",
           key_place(config, "content"), content.size(), kMaxContentBytes * 4);
    }
    // Of a token that is listed twice the last entry holds, but special it stays.
    if (const AddedToken* earlier = find(token.content)) token.special |= earlier->special;
    by_content_.insert_or_assign(token.content, token.id);
    by_id_.insert_or_assign(token.id, std::move(token));
  }
  std::vector<std::pair<std::string, TokenId>> raw;
  std::vector<std::pair<std::string, TokenId>> normalized;
  for (const auto& [id, token] : by_id_) {
    if (!sought.at(id).empty())
      (token.normalized ? normalized : raw).emplace_back(sought.at(id), id);
    normalizes_control_ = normalizes_control_ || (token.normalized && token.is_control());
  }
  raw_.build(std::move(raw));
  normalized_.build(std::move(normalized));
}

void AddedTokens::require_own_id(const AddedToken& token, const Vocabulary& vocabulary,
                                 const JsonObject& config) const {
  const std::optional<TokenId> known = vocabulary.find(token.content);
  const std::optional<std::string_view> owner = vocabulary.token(token.id);
  if (known && *known != token.id) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: \"{}\" has id {} in the vocabulary, got {}",
         key_place(config, "id"), token.content, *known, token.id);
  }
  if (owner && *owner != token.content) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: id {} of \"{}\" belongs to \"{}\" in the vocabulary",
         key_place(config, "id"), token.id, token.content, *owner);
  }
  if (by_id_.contains(token.id) || by_content_.contains(token.content)) {
    fail(ErrorCode::kFormat,
         "[tokenizer] {}: \"{}\" with id {}: another added token has this id or content",
         config.where(), token.content, token.id);
  }
}

TokenId AddedTokens::assigned_id(const std::string& content, const Vocabulary& vocabulary,
                                 TokenId& next) const {
  if (const AddedToken* earlier = find(content)) return earlier->id;
  if (const std::optional<TokenId> known = vocabulary.find(content)) return *known;
  return next++;
}

std::vector<AddedTokenPart> AddedTokens::split(std::string_view text, bool normalized,
                                               const AddedTokenRules& rules) const {
  const ByteTrie& trie = normalized ? normalized_ : raw_;
  std::vector<AddedTokenPart> parts;
  std::size_t done = 0;
  for (std::size_t at = 0; !trie.empty() && at < text.size();) {
    if (!trie.may_start(text[at])) {
      ++at;
      continue;
    }
    const AddedToken* token = nullptr;
    TextSpan range{at, at};
    trie.prefixes(text.substr(at), [&](std::size_t length, TokenId id) {
      const AddedToken& candidate = by_id_.find(id)->second;
      const TextSpan place{at, at + length};
      if (candidate.is_control() && touches(rules.plain, place)) return;
      token = &candidate;
      range = place;
    });
    if (token == nullptr) {
      ++at;
      continue;
    }
    // Whether or not the token is accepted, the search continues after it, as in the reference.
    at = range.end;
    if (token->special && !rules.parse_special) continue;
    if (token->single_word &&
        (ends_with_word(text.substr(0, range.begin)) || starts_with_word(text.substr(range.end)))) {
      continue;
    }
    if (token->left_strip) range.begin = skip_white_space_back(text, done, range.begin);
    if (token->right_strip) range.end = skip_white_space(text, range.end);
    if (range.begin > done) parts.push_back({{done, range.begin}, std::nullopt});
    parts.push_back({range, token->id});
    done = range.end;
  }
  if (done < text.size()) parts.push_back({{done, text.size()}, std::nullopt});
  return parts;
}

const AddedToken* AddedTokens::find(TokenId id) const noexcept {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : &it->second;
}

const AddedToken* AddedTokens::find(std::string_view content) const noexcept {
  const auto it = by_content_.find(content);
  return it == by_content_.end() ? nullptr : find(it->second);
}

TokenId AddedTokens::highest_id() const noexcept {
  return by_id_.empty() ? -1 : by_id_.rbegin()->first;
}

}  // namespace tandem
