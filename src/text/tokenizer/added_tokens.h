// Tokens that are matched in the text as a whole before all other stages, such as "<|im_end|>".
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer/byte_trie.h"
#include "text/tokenizer/normalizer.h"
#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/unicode.h"
#include "text/tokenizer/vocabulary.h"

namespace tandem {

struct AddedToken {
  TokenId id = 0;
  std::string content;
  // Omitted by decode() on request.
  bool special = false;
  // Its normalized content is searched for in the normalized text.
  bool normalized = false;
  // Also matches the white space before it.
  bool left_strip = false;
  // Also matches the white space after it.
  bool right_strip = false;
  // Does not match inside a word.
  bool single_word = false;

  // Special, or spelled like a special token: some files leave out the flag for "</s>" or
  // "<tool_call>".
  bool is_control() const {
    return special || (content.starts_with('<') && content.ends_with('>'));
  }
};

// Which tokens a search may match.
struct AddedTokenRules {
  // False: special tokens are treated as plain text.
  bool parse_special = true;
  // Ascending, disjoint, not empty: no control token may overlap these.
  std::span<const TextSpan> plain = {};
};

// Part of a text: a token, or a range still to be tokenized.
struct AddedTokenPart {
  TextSpan range;
  std::optional<TokenId> token;
};

class AddedTokens {
 public:
  // Reads "added_tokens" of tokenizer.json, if present. `normalizer` may be null. As in Hugging
  // Face's library, a token that `vocabulary` holds has its id there, and any other the number
  // of tokens before it, in the order of the list, whatever id is listed with it; entries without
  // content are ignored, and of entries with the same content the last holds. With kKeepAddedIds,
  // ids are those listed. Throws kFormat for damaged entries.
  AddedTokens(const JsonObject& root, const Vocabulary& vocabulary, const Normalizer* normalizer);

  // Splits `text` at the tokens whose `normalized` flag is as given.
  std::vector<AddedTokenPart> split(std::string_view text, bool normalized,
                                    const AddedTokenRules& rules) const;
  // Whether some control tokens are searched for in normalized text.
  bool normalizes_control() const noexcept { return normalizes_control_; }

  const AddedToken* find(TokenId id) const noexcept;
  const AddedToken* find(std::string_view content) const noexcept;
  TokenId highest_id() const noexcept;
  // Of the ids in the list, which may not be those assigned. -1 if there are none.
  TokenId highest_listed_id() const noexcept { return highest_listed_id_; }

 private:
  // Throws kFormat if `vocabulary` or an earlier token contradicts the id of `token`.
  void require_own_id(const AddedToken& token, const Vocabulary& vocabulary,
                      const JsonObject& config) const;
  // That of an earlier token with this content or of the vocabulary, else `next`, which moves on.
  TokenId assigned_id(const std::string& content, const Vocabulary& vocabulary,
                      TokenId& next) const;

  std::map<TokenId, AddedToken> by_id_;
  std::map<std::string, TokenId, std::less<>> by_content_;
  ByteTrie raw_;
  ByteTrie normalized_;
  bool normalizes_control_ = false;
  TokenId highest_listed_id_ = -1;
};

}  // namespace tandem
