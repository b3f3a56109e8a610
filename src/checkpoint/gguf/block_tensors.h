// Tensors from ggml blocks, for the formats that contain them (GGUF, .mllm), and codes moved into
// them.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/gguf/ggml_blocks.h"
#include "tensor/weight.h"

namespace tandem {

// A tensor from the bytes of its elements or blocks, `raw`, which fill `shape` exactly. Plain
// elements are used in place, or copied if misaligned; blocks are dequantized to loaded_dtype().
// Throws kUnsupported for an unsupported type and for a value beyond that dtype's range. `place`
// starts messages.
Tensor load_blocks(GgmlType type, const Shape& shape, const Tensor& raw, const std::string& place);

// The same, for elements of a known type.
Tensor load_plain(DType dtype, const Shape& shape, const Tensor& raw);

// Q4_0 without conversion: groups of 32 with zero point 8. `bytes` holds n * k / 32 blocks.
Weight int4_from_q4_0(std::span<const std::byte> bytes, std::int64_t n, std::int64_t k);

// Elements of a block of Q4_0, Q4_1 and Q8_0.
inline constexpr std::int64_t kGgmlBlock = 32;

// The type whose blocks hold these codes as they are: Q4_0 for 4-bit codes if every zero point is in
// the middle, Q4_1 for others, Q8_0 for 8-bit codes whose zero points are all in the middle. Nullopt
// for other 8-bit codes, and for groups that are not made of whole blocks.
std::optional<GgmlType> ggml_type_of_codes(const GroupCodes& codes);

// Rows [begin, begin + count) as blocks of the type of ggml_type_of_codes(), or of Q4_1 in place of
// Q4_0. A larger group's scale is repeated. Scales become F16, in which most are already; Q4_1's
// minimum is -zero point * scale, rounded to F16. Throws kUnsupported naming `name` if one of them is
// beyond its range.
std::vector<std::byte> blocks_of_codes(const GroupCodes& codes, GgmlType type, std::int64_t begin,
                                       std::int64_t count, std::string_view name);

}  // namespace tandem
