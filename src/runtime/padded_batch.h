// Prompts of different lengths as one matrix, as other programs hand them around, and as the lists
// that a model here reads. Padding never reaches the model: positions start at the first real
// token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "text/tokenizer/tokenizer.h"

namespace tandem {

enum class PaddingSide : std::uint8_t { kLeft, kRight };

// The rows of `ids` [batch, length] without their padding, which is where `mask` of the same shape
// is 0; elsewhere it is 1. A row's tokens stand together, at either end or between. The spans point
// into `ids`. Throws kInvalidArgument naming the row: a length that does not divide the ids, a row
// of padding alone, a gap between tokens, a mask that is neither 0 nor 1.
std::vector<std::span<const TokenId>> unpad(std::span<const TokenId> ids, std::int64_t length,
                                            std::span<const std::int64_t> mask);

// The same where `pad` fills the rows on one side. A prompt that begins (or ends) with the token
// that serves as padding needs a mask.
std::vector<std::span<const TokenId>> unpad(std::span<const TokenId> ids, std::int64_t length,
                                            TokenId pad, PaddingSide side);

// The way back: rows as long as the longest, [batch, length].
struct PaddedBatch {
  std::vector<TokenId> ids;
  std::vector<std::int64_t> mask;
  std::int64_t length = 0;
};
PaddedBatch pad(std::span<const std::span<const TokenId>> rows, TokenId pad, PaddingSide side);

}  // namespace tandem
