// Orthonormal matrices whose entries are all about as large, for transforms of any size.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace tandem {

// F32 [m, m], orthonormal, size = m · 2^k: M in the transform M ⊗ H of so many channels, where H is
// the Hadamard matrix of order 2^k. m is the least order of at most 256 for which M is a Hadamard
// matrix, of entries ±1/√m, by a construction of Paley's (1933): 1 for powers of two, and a multiple
// of the size's odd part. Where there is none m is the odd part, and no entry of M is larger than
// 1.5/√m. Throws kInvalidArgument for a size below 1.
Tensor hadamard_factor(std::int64_t size);

}  // namespace tandem
