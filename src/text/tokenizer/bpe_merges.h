// The merge table: which two adjacent tokens merge into which, and at which rank; and sets of token
// pairs.
#pragma once

#include <cstdint>
#include <vector>

#include "text/tokenizer/tokenizer.h"

namespace tandem {

struct Merge {
  static constexpr std::int32_t kNever = INT32_MAX;
  // Lower ranks merge first.
  std::int32_t rank = kNever;
  TokenId token = -1;
};

// Packs two ids into one number.
inline std::uint64_t pair_key(TokenId left, TokenId right) noexcept {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

// Open addressing on the pair of ids: one probe, usually one cache line, per lookup.
class MergeTable {
 public:
  MergeTable() : MergeTable(0) {}
  explicit MergeTable(std::size_t count);
  // A pair that already exists gets the new merge, as in the reference.
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
  // Ids are never negative, so no pair has this key.
  static constexpr std::uint64_t kFree = UINT64_MAX;
  // Fibonacci hashing: the upper bits of the product depend on all bits of the key.
  std::size_t hash(std::uint64_t key) const noexcept {
    return static_cast<std::size_t>((key * 0x9E3779B97F4A7C15u) >> shift_);
  }

  std::vector<Slot> slots_;
  std::size_t mask_;
  int shift_;
};

// A set of a few thousand pairs. Small enough to stay in the cache, unlike the merge table, which
// is a hundred times larger.
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
