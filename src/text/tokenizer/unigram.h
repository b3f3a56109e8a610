// The unigram language model: of all ways to split a piece into tokens, the most probable one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "text/tokenizer/byte_tokens.h"
#include "text/tokenizer/byte_trie.h"
#include "text/tokenizer/token_model.h"

namespace tandem {

class UnigramModel : public TokenModel {
 public:
  // "model" of tokenizer.json. Two keys are specific to tandem, for SentencePiece models:
  // "user_defined_symbols" (ids that always match their text) and "unmatched" (ids that never
  // match). Throws kFormat naming the key.
  explicit UnigramModel(const JsonObject& config);

  std::unique_ptr<PieceEncoder> start() const override;
  const Vocabulary& vocabulary() const noexcept override { return vocabulary_; }

 private:
  friend class UnigramEncoder;
  static constexpr TokenId kNone = -1;

  Vocabulary vocabulary_;
  ByteTrie trie_;
  // Log probability by id.
  std::vector<double> scores_;
  double unknown_score_;
  TokenId unknown_id_;
  ByteTokens bytes_;
  bool byte_fallback_;
  // A run of unknown characters may itself be a token, as in the reference.
  bool looks_up_unknown_;
  // For errors while encoding.
  std::string place_;
};

}  // namespace tandem
