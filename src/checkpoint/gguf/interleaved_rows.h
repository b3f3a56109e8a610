// Q4_0 with rows of a matrix interleaved, as Arm's instructions take them: Q4_0_4_4, Q4_0_4_8 and
// Q4_0_8_8, which mllm writes, and llama.cpp once did.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/gguf/ggml_blocks.h"
#include "tensor/tensor.h"

namespace tandem {

struct Interleaving {
  // That share a block.
  std::int64_t rows;
  // Consecutive ones of each row.
  std::int64_t bytes;
};

// Nullopt for types whose rows stand one after the other.
std::optional<Interleaving> interleaving_of(GgmlType type) noexcept;

// The blocks of an interleaved type for a matrix whose rows are `k` elements in Q4_0, `bytes`. The
// number of rows is a multiple of those that are interleaved, and k of 32. Of the same block in each
// of these rows there are first the scales, then the codes in turns; codes are signed, where Q4_0's
// are 8 larger.
std::vector<std::byte> interleave_rows(GgmlType type, std::span<const std::byte> bytes,
                                       std::int64_t k);

// The opposite, for bytes from a file, in memory of their own. Throws kFormat if `shape` is not a
// matrix of as many rows; `place` starts the message.
Tensor separate_rows(GgmlType type, const Shape& shape, std::span<const std::byte> bytes,
                     const std::string& place);

}  // namespace tandem
