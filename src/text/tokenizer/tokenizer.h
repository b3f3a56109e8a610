// Text to tokens and back, as a checkpoint's tokenizer describes it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "text/tokenizer/text_span.h"

namespace tandem {

using TokenId = std::int32_t;

struct EncodeOptions {
  bool add_special_tokens = true;  // what the post-processor adds, such as <s>
  // "<|im_end|>" in the text becomes that token; false: it is plain text.
  bool parse_special_tokens = true;
  // Parts of the text, ascending and apart, that someone else wrote, such as
  // RenderedChat::from_chat: no byte of them becomes part of a control token. All else, such as
  // merges across their borders, is as without them.
  std::span<const TextSpan> plain = {};
};

class Tokenizer {
 public:
  // A tokenizer's file in any of the formats that tokenizer_files.h names, or a folder that holds
  // one. Throws kNotFound if there is none, kFormat naming the file and the key, kUnsupported for a
  // component that is not known.
  static Tokenizer open(const fs::path& path);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options = {}) const;
  // Bytes that are not valid UTF-8 come out as U+FFFD, as the reference does.
  std::string decode(std::span<const TokenId> ids, bool skip_special_tokens = false) const;

  std::int64_t vocabulary_size() const noexcept;  // highest id + 1, added tokens included
  std::optional<TokenId> token_to_id(std::string_view token) const;  // as spelled in the vocabulary
  std::string id_to_token(TokenId id) const;  // kInvalidArgument if out of range
  bool is_special(TokenId id) const noexcept;

 private:
  friend class TokenStream;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

// Decodes token by token; what comes out so far is always whole UTF-8 characters, and the pieces
// joined equal decode() of all ids.
class TokenStream {
 public:
  explicit TokenStream(const Tokenizer& tokenizer, bool skip_special_tokens = true);
  ~TokenStream();
  std::string put(TokenId id);  // "" while a character is incomplete
  std::string finish();         // what is left, incomplete bytes as U+FFFD

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tandem
