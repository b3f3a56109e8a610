// Converts text to tokens and back, as defined by a checkpoint's tokenizer.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "base/observer.h"
#include "text/tokenizer/text_span.h"

namespace tandem {

using TokenId = std::int32_t;

struct EncodeOptions {
  // Add the post-processor's tokens, such as <s>.
  bool add_special_tokens = true;
  // "<|im_end|>" in the text becomes that token; false: it is treated as plain text.
  bool parse_special_tokens = true;
  // Untrusted parts of the text, ascending and disjoint, such as RenderedChat::from_chat: no byte
  // of them becomes part of a control token. Everything else, including merges across their
  // boundaries, is unaffected.
  std::span<const TextSpan> plain = {};
};

class Tokenizer {
 public:
  // Opens a tokenizer file in any of the formats listed in tokenizer_files.h, or a folder that
  // contains one. Throws kNotFound if there is none, kFormat naming the file and the key,
  // kUnsupported for an unknown component. `observer` receives warnings about what the file leaves
  // open. `merges`: those of a format that has them in a file of their own, if they don't stand
  // next to it.
  static Tokenizer open(const fs::path& path, Observer& observer = silent(),
                        const fs::path& merges = {});
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options = {}) const;
  // Invalid UTF-8 is replaced by U+FFFD, as in the reference.
  std::string decode(std::span<const TokenId> ids, bool skip_special_tokens = false) const;

  // Highest id + 1, including added tokens.
  std::int64_t vocabulary_size() const noexcept;
  // By its spelling in the vocabulary.
  std::optional<TokenId> token_to_id(std::string_view token) const;
  // Throws kInvalidArgument if out of range.
  std::string id_to_token(TokenId id) const;
  bool is_special(TokenId id) const noexcept;

 private:
  friend class TokenStream;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

// Decodes token by token. The output always consists of whole UTF-8 characters, and its
// concatenation equals decode() of all ids.
class TokenStream {
 public:
  explicit TokenStream(const Tokenizer& tokenizer, bool skip_special_tokens = true);
  ~TokenStream();
  // Returns "" while a character is incomplete.
  std::string put(TokenId id);
  // The remaining text; incomplete bytes become U+FFFD.
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tandem
