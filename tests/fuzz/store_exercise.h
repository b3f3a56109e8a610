// Loads every tensor from a file and reads every byte.
#pragma once

#include "checkpoint/tensor_store.h"
#include "fuzz.h"

namespace tandem::fuzz {

inline void exercise(const TensorStore& store) {
  for (const auto& [name, stored] : store.tensors()) {
    // A view may repeat what is in the file; no more than this is tried.
    if (element_count(stored.shape) > 1 << 16) continue;
    const Tensor tensor = store.load(name);
    require(tensor.shape() == stored.shape, "the shape is another once loaded");
    std::uint64_t sum = 0;
    for (const std::byte byte : tensor.bytes()) sum += static_cast<std::uint64_t>(byte);
    require(sum <= tensor.bytes().size() * std::uint64_t{255}, "bytes beyond a byte");
  }
}

}  // namespace tandem::fuzz
