// Tokens found in the text as a whole before anything else is done: "<|im_end|>" and its like.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/normalizer.h"
#include "text/tokenizer.h"
#include "text/unicode.h"
#include "text/vocabulary.h"

namespace tandem {

struct AddedToken {
  TokenId id = 0;
  std::string content;
  bool special = false;      // left out by decode() on request
  bool normalized = false;   // sought in the normalized text, as its normalized content
  bool left_strip = false;   // takes the white space before it
  bool right_strip = false;  // and behind it
  bool single_word = false;  // not inside a word
};

// A part of a text: a token, or a range to tokenize.
struct AddedTokenPart {
  TextRange range;
  std::optional<TokenId> token;
};

class AddedTokens {
 public:
  // "added_tokens" of tokenizer.json, if it is there. `normalizer` may be null. Throws kFormat,
  // among others for an id that `vocabulary` gives to another token.
  AddedTokens(const JsonObject& root, const Vocabulary& vocabulary, const Normalizer* normalizer);

  // Cuts `text` at the tokens whose `normalized` is as given. Without `parse_special`, special ones
  // are plain text.
  std::vector<AddedTokenPart> split(std::string_view text, bool normalized,
                                    bool parse_special) const;

  const AddedToken* find(TokenId id) const noexcept;
  const AddedToken* find(std::string_view content) const noexcept;
  TokenId highest_id() const noexcept;

 private:
  // All contents at once, byte by byte: the longest that begins at a given place.
  class Trie {
   public:
    void build(std::vector<std::pair<std::string, TokenId>> contents);
    // Length and token of the longest content at the start of `text`; length 0 if there is none.
    std::pair<std::size_t, TokenId> longest(std::string_view text) const noexcept;
    bool may_start(char c) const noexcept { return first_[static_cast<unsigned char>(c)]; }
    bool empty() const noexcept { return nodes_.empty(); }

   private:
    struct Node {
      std::uint32_t edges_begin = 0;  // in edges_, sorted by byte
      std::uint32_t edges_end = 0;
      TokenId token = -1;
    };
    struct Edge {
      unsigned char byte;
      std::uint32_t node;
    };
    std::array<bool, 256> first_{};
    std::vector<Node> nodes_;
    std::vector<Edge> edges_;
  };

  std::map<TokenId, AddedToken> by_id_;
  std::map<std::string, TokenId, std::less<>> by_content_;
  Trie raw_;
  Trie normalized_;
};

}  // namespace tandem
