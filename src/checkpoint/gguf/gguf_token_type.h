// The types of tokens in "tokenizer.ggml.token_type", which are SentencePiece's.
#pragma once

#include <cstdint>

namespace tandem {

enum TokenType : std::int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

}  // namespace tandem
