// Which two neighbouring tokens merge into which, and how early; and sets of pairs of tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "text/tokenizer/tokenizer.h"

namespace tandem {

struct Merge {
  static constexpr std::int32_t kNever = INT32_MAX;
  std::int32_t rank = kNever;  // merges of lower rank come first
  TokenId token = -1;
};

// Two ids in one number.
inline std::uint64_t pair_key(TokenId left, TokenId right) noexcept {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

// Open addressing on the pair of ids: one probe, usually one cache line, per question.
class MergeTable {
 public:
  MergeTable() : MergeTable(0) {}
  explicit MergeTable(std::size_t count);
  // A pair that is there already takes the new merge, as in the reference.
  void insert(TokenId left, TokenId right, Merge merge);
  Merge find(TokenId left, TokenId right) const noexcept {
    const std::uint64_t key = pair_key(left, right);
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
  // Fibonacci hashing: the upper bits of the product depend on all bits of the key.
  std::size_t hash(std::uint64_t key) const noexcept {
    return static_cast<std::size_t>((key * 0x9E3779B97F4A7C15u) >> shift_);
  }

  std::vector<Slot> slots_;
  std::size_t mask_;
  int shift_;
};

// Which of a few thousand pairs are there. Small enough to stay in the cache where the table of
// merges, a hundred times its size, does not.
class PairSet {
 public:
  explicit PairSet(std::vector<std::uint64_t> keys);
  bool contains(TokenId left, TokenId right) const noexcept {
    const std::uint64_t key = pair_key(left, right);
    for (std::size_t slot = hash(key);; slot = (slot + 1) & mask_) {
      if (slots_[slot] == key) return true;
      if (slots_[slot] == kFree) return false;
    }
  }

 private:
  static constexpr std::uint64_t kFree = UINT64_MAX;
  std::size_t hash(std::uint64_t key) const noexcept {
    return static_cast<std::size_t>((key * 0x9E3779B97F4A7C15u) >> shift_);
  }

  std::vector<std::uint64_t> slots_;
  std::size_t mask_;
  int shift_;
};

}  // namespace tandem
