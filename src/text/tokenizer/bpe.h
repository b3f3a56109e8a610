// Byte pair encoding: a piece starts as single characters, and neighbours merge in the order of the
// merges learnt.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "text/tokenizer/bpe_merges.h"
#include "text/tokenizer/byte_tokens.h"
#include "text/tokenizer/byte_trie.h"
#include "text/tokenizer/token_model.h"

namespace tandem {

class BpeModel : public TokenModel {
 public:
  // "model" of tokenizer.json. Two keys are tandem's own, for formats that list no merges:
  // "token_ranks" in place of "merges" (by id: how early two tokens become this one, or null where
  // they never do), and "user_defined_symbols" (ids that win wherever their text stands). Throws
  // kFormat naming the key, such as "model.merges[17]".
  explicit BpeModel(const JsonObject& config);

  std::unique_ptr<PieceEncoder> start() const override;
  const Vocabulary& vocabulary() const noexcept override { return vocabulary_; }

 private:
  friend class BpeEncoder;
  static constexpr TokenId kNone = -1;
  static constexpr std::size_t kDirect =
      0x180;  // characters looked up without hashing: ASCII, byte-level alphabet

  struct RankedMerge {
    TokenId left;
    TokenId right;
    Merge merge;
  };
  std::vector<RankedMerge> read_merges(const JsonObject& config) const;
  std::vector<RankedMerge> derive_merges(const JsonObject& config) const;
  void read_symbols(const JsonObject& config);
  // Fills joints_, unless what a piece begins as is not simply its characters.
  void find_joints(const std::vector<RankedMerge>& merges);
  // The token of one character, decorated by prefix and suffix where they apply.
  TokenId character_token(std::string_view character, bool first, bool last) const;

  Vocabulary vocabulary_;
  MergeTable merges_;
  std::optional<PairSet> joints_;  // characters, as tokens, between which some merge takes place
  ByteTrie symbols_;               // user defined
  ByteTokens bytes_;
  std::string place_;    // of the model, for errors while encoding
  std::string unknown_;  // empty: characters without a token are left out
  TokenId unknown_id_ = kNone;
  bool fuse_unknown_;
  bool byte_fallback_;
  bool ignore_merges_;  // a piece that is a token is that token, however merges would build it
  std::string continuing_prefix_;  // written before characters that don't begin a piece
  std::string end_suffix_;         // written behind the last character of a piece
  std::array<TokenId, kDirect> direct_;
};

}  // namespace tandem
