// The vocabulary and settings of a SentencePiece model, whatever their source, and their conversion
// to tokenizer.json.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "text/tokenizer/tokenizer_config.h"

namespace tandem {

struct SentencePieceModel {
  enum class Kind { kUnigram, kBpe };
  // The numbers used in sentencepiece_model.proto and in GGUF.
  enum class Type { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };
  struct Piece {
    std::string text;
    double score;
    Type type;
  };
  Kind kind = Kind::kUnigram;
  // Indexed by id.
  std::vector<Piece> pieces;
  bool byte_fallback = false;
  // The value of normalizer_spec.precompiled_charsmap.
  std::string character_map;
  bool add_dummy_prefix = true;
  bool remove_extra_spaces = true;
  bool escape_spaces = true;
  bool space_as_suffix = false;
  std::int64_t bos_id = 1;
  std::int64_t eos_id = 2;
};

// Validates the pieces (valid UTF-8, not empty, no duplicates, finite scores; throws kFormat naming
// `place`) and converts them. BPE merges are ranked by score, as in SentencePiece.
Json to_tokenizer_json(SentencePieceModel model, const TokenizerConfig& config,
                       const std::string& place);

}  // namespace tandem
