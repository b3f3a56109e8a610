// Building the table of merges.
#include "text/bpe_merges.h"

#include <bit>

namespace tandem {

MergeTable::MergeTable(std::size_t count) : slots_(std::bit_ceil(2 * count + 2)) {
  mask_ = slots_.size() - 1;
  shift_ = 64 - std::countr_zero(slots_.size());
}

void MergeTable::insert(TokenId left, TokenId right, Merge merge) {
  const std::uint64_t key = key_of(left, right);
  std::size_t slot = hash(key);
  while (slots_[slot].key != key && slots_[slot].key != kFree) slot = (slot + 1) & mask_;
  slots_[slot] = {key, merge};
}

}  // namespace tandem
