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
  // Reads "added_tokens" of tokenizer.json, if present. `normalizer` may be null. Throws kFormat,
  // for example for an id that `vocabulary` assigns to another token.
  AddedTokens(const JsonObject& root, const Vocabulary& vocabulary, const Normalizer* normalizer);

  // Splits `text` at the tokens whose `normalized` flag is as given.
  std::vector<AddedTokenPart> split(std::string_view text, bool normalized,
                                    const AddedTokenRules& rules) const;
  // Whether some control tokens are searched for in normalized text.
  bool normalizes_control() const noexcept { return normalizes_control_; }

  const AddedToken* find(TokenId id) const noexcept;
  const AddedToken* find(std::string_view content) const noexcept;
  TokenId highest_id() const noexcept;

 private:
  std::map<TokenId, AddedToken> by_id_;
  std::map<std::string, TokenId, std::less<>> by_content_;
  ByteTrie raw_;
  ByteTrie normalized_;
  bool normalizes_control_ = false;
};

}  // namespace tandem
