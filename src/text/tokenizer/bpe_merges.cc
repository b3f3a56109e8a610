// Builds the tables.
#include "text/tokenizer/bpe_merges.h"

#include <algorithm>
#include <bit>

namespace tandem {

MergeTable::MergeTable(std::size_t count) : slots_(std::bit_ceil(2 * count + 2)) {
  mask_ = slots_.size() - 1;
  shift_ = 64 - std::countr_zero(slots_.size());
}

void MergeTable::insert(TokenId left, TokenId right, Merge merge) {
  const std::uint64_t key = pair_key(left, right);
  std::size_t slot = hash(key);
  while (slots_[slot].key != key && slots_[slot].key != kFree) slot = (slot + 1) & mask_;
  slots_[slot] = {key, merge};
}

PairSet::PairSet(std::vector<std::uint64_t> keys) {
  std::sort(keys.begin(), keys.end());
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
  slots_.assign(std::bit_ceil(2 * keys.size() + 2), kFree);
  mask_ = slots_.size() - 1;
  shift_ = 64 - std::countr_zero(slots_.size());
  for (const std::uint64_t key : keys) {
    std::size_t slot = hash(key);
    while (slots_[slot] != kFree) slot = (slot + 1) & mask_;
    slots_[slot] = key;
  }
}

}  // namespace tandem
