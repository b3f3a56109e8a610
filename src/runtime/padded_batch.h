// Conversions between prompts of different lengths padded to one matrix, as other programs use
// them, and the lists used here. Padding never reaches the model: positions start at the first real
// token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "text/tokenizer/tokenizer.h"

namespace tandem {

enum class PaddingSide : std::uint8_t { kLeft, kRight };

// The rows of `ids` [batch, length] without their padding, where `mask`, of the same shape, is 0;
// for tokens it is 1. A row's tokens must be contiguous; padding may be on either side or both. The
// spans point into `ids`. Throws kInvalidArgument naming the row: a number of ids that is not a
// multiple of `length`, a row with only padding, a gap between tokens, a mask value other than 0
// and 1.
std::vector<std::span<const TokenId>> unpad(std::span<const TokenId> ids, std::int64_t length,
                                            std::span<const std::int64_t> mask);

// The same if `pad` tokens fill the rows on one side. A prompt that begins (or ends) with the
// padding token itself needs a mask.
std::vector<std::span<const TokenId>> unpad(std::span<const TokenId> ids, std::int64_t length,
                                            TokenId pad, PaddingSide side);

// The reverse: rows padded to the length of the longest, [batch, length].
struct PaddedBatch {
  std::vector<TokenId> ids;
  std::vector<std::int64_t> mask;
  std::int64_t length = 0;
};
PaddedBatch pad(std::span<const std::span<const TokenId>> rows, TokenId pad, PaddingSide side);

}  // namespace tandem
