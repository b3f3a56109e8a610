// Tokens found in the text as a whole before anything else is done: "<|im_end|>" and its like.
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
  bool special = false;      // left out by decode() on request
  bool normalized = false;   // sought in the normalized text, as its normalized content
  bool left_strip = false;   // takes the white space before it
  bool right_strip = false;  // and behind it
  bool single_word = false;  // not inside a word

  // Special, or spelled like one: some files leave the mark from "</s>" or "<tool_call>".
  bool is_control() const {
    return special || (content.starts_with('<') && content.ends_with('>'));
  }
};

// Which tokens a search may find.
struct AddedTokenRules {
  bool parse_special = true;  // false: special tokens are plain text
  std::span<const TextSpan> plain =
      {};  // ascending, apart, not empty: no control token touches these
};

// A part of a text: a token, or a range to tokenize.
struct AddedTokenPart {
  TextSpan range;
  std::optional<TokenId> token;
};

class AddedTokens {
 public:
  // "added_tokens" of tokenizer.json, if it is there. `normalizer` may be null. Throws kFormat,
  // among others for an id that `vocabulary` gives to another token.
  AddedTokens(const JsonObject& root, const Vocabulary& vocabulary, const Normalizer* normalizer);

  // Cuts `text` at the tokens whose `normalized` is as given.
  std::vector<AddedTokenPart> split(std::string_view text, bool normalized,
                                    const AddedTokenRules& rules) const;
  // Whether control tokens are sought in normalized text.
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
