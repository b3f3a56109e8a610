// Byte pair encoding: a piece starts as single characters, and adjacent tokens are merged in order
// of rank.
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
  // "model" of tokenizer.json. Two keys are specific to tandem, for formats that list no merges:
  // "token_ranks" replaces "merges" (by id: the rank at which two tokens merge into this one, or
  // null if they never do), and "user_defined_symbols" (ids that always match their text). Throws
  // kFormat naming the key, such as "model.merges[17]".
  explicit BpeModel(const JsonObject& config);

  std::unique_ptr<PieceEncoder> start() const override;
  const Vocabulary& vocabulary() const noexcept override { return vocabulary_; }

 private:
  friend class BpeEncoder;
  static constexpr TokenId kNone = -1;
  // Characters looked up without hashing: ASCII and the byte-level alphabet.
  static constexpr std::size_t kDirect = 0x180;

  struct RankedMerge {
    TokenId left;
    TokenId right;
    Merge merge;
  };
  std::vector<RankedMerge> read_merges(const JsonObject& config) const;
  std::vector<RankedMerge> derive_merges(const JsonObject& config) const;
  void read_symbols(const JsonObject& config);
  // Fills joints_, unless a piece does not simply start as its characters.
  void find_joints(const std::vector<RankedMerge>& merges);
  // The token of one character, with prefix and suffix if they apply.
  TokenId character_token(std::string_view character, bool first, bool last) const;

  Vocabulary vocabulary_;
  MergeTable merges_;
  // Pairs of characters, as tokens, that some merge joins.
  std::optional<PairSet> joints_;
  // User-defined symbols.
  ByteTrie symbols_;
  ByteTokens bytes_;
  // Location of the model, for errors while encoding.
  std::string place_;
  // If empty, characters without a token are dropped.
  std::string unknown_;
  TokenId unknown_id_ = kNone;
  bool fuse_unknown_;
  bool byte_fallback_;
  // A piece that is itself a token becomes that token, whatever the merges would produce.
  bool ignore_merges_;
  // Prepended to characters that don't begin a piece.
  std::string continuing_prefix_;
  // Appended to the last character of a piece.
  std::string end_suffix_;
  std::array<TokenId, kDirect> direct_;
};

}  // namespace tandem
