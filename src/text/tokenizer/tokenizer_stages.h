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

  // The text of a token as the decoder takes it; nothing for an id that no token has.
  std::optional<std::string_view> token_text(TokenId id) const noexcept;

  // Gives `sink` the token, unless it is special and those are to be left out.
  void put(TokenId id, bool skip_special_tokens, TokenSink& sink) const;

  std::unique_ptr<Normalizer> normalizer;       // may be null
  std::unique_ptr<PreTokenizer> pre_tokenizer;  // may be null
  std::unique_ptr<TokenModel> model;
  AddedTokens added;
  std::int64_t size;                              // highest id + 1
  std::unique_ptr<PostProcessor> post_processor;  // may be null
  std::unique_ptr<Decoder> decoder;
};

}  // namespace tandem
