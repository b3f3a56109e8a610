// The stages of one tokenizer, shared by Tokenizer and TokenStream.
#pragma once

#include "text/tokenizer/added_tokens.h"
#include "text/tokenizer/decoder.h"
#include "text/tokenizer/normalizer.h"
#include "text/tokenizer/post_processor.h"
#include "text/tokenizer/pre_tokenizer.h"
#include "text/tokenizer/token_model.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem {

struct TokenizerStages {
  explicit TokenizerStages(const JsonObject& root);

  // The text of a token as input for the decoder; nullopt for an unused id.
  std::optional<std::string_view> token_text(TokenId id) const noexcept;

  // Passes the token to `sink`, unless it is special and special tokens are skipped.
  void put(TokenId id, bool skip_special_tokens, TokenSink& sink) const;

  // May be null.
  std::unique_ptr<Normalizer> normalizer;
  // May be null.
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  std::unique_ptr<TokenModel> model;
  AddedTokens added;
  // Highest id + 1.
  std::int64_t size;
  // May be null.
  std::unique_ptr<PostProcessor> post_processor;
  std::unique_ptr<Decoder> decoder;
};

}  // namespace tandem
