// Which two neighbouring tokens merge into which, and how early.
#pragma once

#include <cstdint>
#include <vector>

#include "text/tokenizer.h"

namespace tandem {

struct Merge {
  static constexpr std::int32_t kNever = INT32_MAX;
  std::int32_t rank = kNever;  // merges of lower rank come first
  TokenId token = -1;
};

// Open addressing on the pair of ids: one probe, usually one cache line, per question.
class MergeTable {
 public:
  explicit MergeTable(std::size_t count);
  // A pair that is there already takes the new merge, as in the reference.
  void insert(TokenId left, TokenId right, Merge merge);
  Merge find(TokenId left, TokenId right) const noexcept {
    const std::uint64_t key = key_of(left, right);
    for (std::size_t slot = hash(key);; slot = (slot + 1) & mask_) {
      if (slots_[slot].key == key) return slots_[slot].merge;
      if (slots_[slot].key == kFree) return {};
    }
  }

 private:
  struct Slot {
    std::uint64_t key = kFree;
    Merge merge;
  };
  static constexpr std::uint64_t kFree = UINT64_MAX;  // ids are not negative
  static std::uint64_t key_of(TokenId left, TokenId right) noexcept {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
           static_cast<std::uint32_t>(right);
  }
  // Fibonacci hashing: the upper bits of the product depend on all bits of the key.
  std::size_t hash(std::uint64_t key) const noexcept {
    return static_cast<std::size_t>((key * 0x9E3779B97F4A7C15u) >> shift_);
  }

  std::vector<Slot> slots_;
  std::size_t mask_;
  int shift_;
};

}  // namespace tandem
