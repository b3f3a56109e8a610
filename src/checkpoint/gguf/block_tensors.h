// Tensors from ggml blocks, for the formats that contain them (GGUF, .mllm).
#pragma once

#include <span>
#include <string>

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

}  // namespace tandem
