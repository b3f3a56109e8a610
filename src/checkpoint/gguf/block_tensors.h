// Tensors from ggml's blocks, for the formats that hold them (GGUF, .mllm).
#pragma once

#include <memory>
#include <span>
#include <string>

#include "checkpoint/gguf/ggml_blocks.h"
#include "tensor/weight.h"

namespace tandem {

// Plain elements stay where they are, or are copied if not aligned; blocks become F16. kUnsupported
// for a type that is not read here and for a value beyond F16. `place` begins messages.
Tensor load_blocks(GgmlType type, const Shape& shape, std::span<const std::byte> bytes,
                   const std::shared_ptr<const void>& owner, const std::string& place);

// The same, for elements of a known type.
Tensor load_plain(DType dtype, const Shape& shape, std::span<const std::byte> bytes,
                  const std::shared_ptr<const void>& owner);

// Q4_0 as it is: groups of 32 with zero point 8. `bytes` holds n * k / 32 blocks.
Weight int4_from_q4_0(std::span<const std::byte> bytes, std::int64_t n, std::int64_t k);

}  // namespace tandem
