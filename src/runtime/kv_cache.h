// The KV cache: a pool of blocks (64 tokens of one layer's K and V, float16), and sequences that
// are lists of blocks. Growing, rewinding and sharing a prefix are operations on these lists.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "tensor/dtype.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem {

class KvPool {
 public:
  // dtype: F16 or F32 (for comparison with float implementations).
  KvPool(std::int64_t layers, std::int64_t kv_heads, std::int64_t head_dim,
         DType dtype = DType::kF16);

  std::int64_t layers() const noexcept { return layers_; }
  std::int64_t block_bytes() const noexcept { return block_bytes_; }
  DType dtype() const noexcept { return dtype_; }
  std::int64_t blocks_in_use() const noexcept;

  // A block of zeros or of stale data; goes back to the pool when the last sequence lets it go. Not
  // thread safe.
  std::shared_ptr<std::byte> allocate();

 private:
  struct FreeList;
  std::int64_t layers_;
  std::int64_t block_bytes_;
  DType dtype_;
  std::shared_ptr<FreeList> free_;  // outlives the pool as long as blocks do
};

class KvSequence {
 public:
  explicit KvSequence(KvPool& pool);

  std::int64_t length() const noexcept { return static_cast<std::int64_t>(ids_.size()); }  // tokens
  std::span<const TokenId> ids() const noexcept { return ids_; }  // of the tokens that it holds
  // Makes room for `tokens` more: new blocks at the end, and an own copy of a shared block that
  // would be written to.
  void reserve(std::int64_t tokens);
  // After keys and values of these tokens were written; reserved before.
  void advance(std::span<const TokenId> ids) { ids_.insert(ids_.end(), ids.begin(), ids.end()); }
  void rewind(
      std::int64_t length);  // drops everything from `length` on, and the blocks that only it used
  KvSequence fork(
      std::int64_t length) const;  // a sequence with the same first tokens, sharing their blocks

  // Of graph/rotary.h: which frequencies its keys were turned by.
  std::int64_t rotary_epoch() const noexcept { return rotary_epoch_; }
  void begin_epoch(std::int64_t epoch) noexcept { rotary_epoch_ = epoch; }  // while it is empty

  DType dtype() const noexcept { return pool_->dtype(); }
  // For SequenceSlice: blocks()[layer][block].
  std::span<const std::vector<std::byte*>> blocks() const noexcept { return pointers_; }

 private:
  KvPool* pool_;
  std::vector<TokenId> ids_;
  std::int64_t rotary_epoch_ = 0;
  std::vector<std::vector<std::shared_ptr<std::byte>>> blocks_;  // [layer][block]
  std::vector<std::vector<std::byte*>> pointers_;                // the same, as programs read it
};

}  // namespace tandem
