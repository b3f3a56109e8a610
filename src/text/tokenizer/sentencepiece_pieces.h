// The vocabulary and settings of a SentencePiece model, wherever they were found, and the
// tokenizer.json that they stand for.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "text/tokenizer/tokenizer_config.h"

namespace tandem {

struct SentencePieceModel {
  enum class Kind { kUnigram, kBpe };
  // As sentencepiece_model.proto numbers them, and GGUF after it.
  enum class Type { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };
  struct Piece {
    std::string text;
    double score;
    Type type;
  };
  Kind kind = Kind::kUnigram;
  std::vector<Piece> pieces;  // by id
  bool byte_fallback = false;
  std::string character_map;  // normalizer_spec.precompiled_charsmap
  bool add_dummy_prefix = true;
  bool remove_extra_spaces = true;
  bool escape_spaces = true;
  bool space_as_suffix = false;
  std::int64_t bos_id = 1;
  std::int64_t eos_id = 2;
};

// Checks the pieces (UTF-8, not empty, none twice, finite scores; kFormat naming `place`) and
// writes them down. Merges of BPE go by score, as SentencePiece's do.
Json to_tokenizer_json(SentencePieceModel model, const TokenizerConfig& config,
                       const std::string& place);

}  // namespace tandem
