// The unigram language model: of all ways to cut a piece in tokens, the most probable one.
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
  // "model" of tokenizer.json. Two keys are tandem's own, for SentencePiece models:
  // "user_defined_symbols" (ids that win wherever their text stands) and "unmatched" (ids that text
  // never becomes). Throws kFormat naming the key.
  explicit UnigramModel(const JsonObject& config);

  std::unique_ptr<PieceEncoder> start() const override;
  const Vocabulary& vocabulary() const noexcept override { return vocabulary_; }

 private:
  friend class UnigramEncoder;
  static constexpr TokenId kNone = -1;

  Vocabulary vocabulary_;
  ByteTrie trie_;
  std::vector<double> scores_;  // log probability by id
  double unknown_score_;
  TokenId unknown_id_;
  ByteTokens bytes_;
  bool byte_fallback_;
  bool looks_up_unknown_;  // a run of unknown characters may be a token, as in the reference
  std::string place_;      // for errors while encoding
};

}  // namespace tandem
