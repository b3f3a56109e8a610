// The KV cache: a pool of blocks, and sequences that are lists of them. A block holds the keys and
// values of 64 tokens for every layer; growing, rewinding and sharing a prefix are operations on
// lists of block numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "devices/device.h"
#include "execute/eviction.h"

namespace tandem {

using BlockId = std::int32_t;

struct KvShape {
  std::int64_t layers = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  // F16, F32 or I8.
  DType dtype = DType::kF16;
};

// Half of the machine's memory: what a cache may grow to unless somebody says otherwise, in bytes.
std::int64_t default_kv_limit();

// Threads may take and give back blocks at once.
class KvPool {
 public:
  // `limit`: bytes that all blocks may take. Throws kUnsupported for another dtype, kInvalidArgument
  // for a shape without layers, heads or elements and for a limit below one block.
  explicit KvPool(const KvShape& shape, std::int64_t limit = default_kv_limit());

  const KvShape& shape() const noexcept { return shape_; }
  std::int64_t layer_bytes() const noexcept { return layer_bytes_; }
  std::int64_t block_bytes() const noexcept { return shape_.layers * layer_bytes_; }
  std::int64_t max_blocks() const noexcept { return max_blocks_; }
  std::int64_t blocks_in_use() const;

  // A block of zeros or of stale data, with one reference. Throws kInvalidArgument, saying how much
  // is in use, beyond the limit.
  BlockId allocate();
  void share(BlockId id) noexcept;
  // Takes one reference back; never allocates.
  void release(BlockId id) noexcept;
  bool is_shared(BlockId id) const noexcept;
  // 64-byte aligned; stays where it is while the block is in use.
  std::byte* data(BlockId id) const noexcept;

 private:
  struct Free {
    void operator()(std::byte* memory) const noexcept;
  };
  using Slab = std::unique_ptr<std::byte[], Free>;

  KvShape shape_;
  std::int64_t layer_bytes_;
  std::int64_t max_blocks_;
  mutable std::mutex mutex_;
  // Blocks that are allocated together.
  std::int64_t slab_blocks_;
  // One entry for each that there can be, so that data() needs no lock.
  std::vector<Slab> slabs_;
  std::vector<std::int32_t> references_;
  std::vector<BlockId> free_;
  std::int64_t in_use_ = 0;
};

// Belongs to one thread at a time; keeps its pool alive.
class KvSequence {
 public:
  explicit KvSequence(std::shared_ptr<KvPool> pool) : pool_(std::move(pool)) {}
  ~KvSequence();
  KvSequence(KvSequence&& other) noexcept;
  KvSequence& operator=(KvSequence&& other) noexcept;
  KvSequence(const KvSequence&) = delete;
  KvSequence& operator=(const KvSequence&) = delete;

  // Tokens that it holds, without those of a prefix.
  std::int64_t length() const noexcept { return position() - prefix_; }
  std::span<const std::int32_t> ids() const noexcept {
    return std::span(ids_).subspan(static_cast<std::size_t>(prefix_));
  }
  // Where the next token stands: behind the prefix and the tokens it holds.
  std::int64_t position() const noexcept { return static_cast<std::int64_t>(ids_.size()); }
  // Makes what it holds a prefix: tokens that every token attends to and that take positions, but
  // that are no part of the sequence for whoever uses it.
  void make_prefix() noexcept { prefix_ = position(); }
  // With the prefix.
  std::span<const std::int32_t> all_ids() const noexcept { return ids_; }
  // Makes room for `tokens` more: new blocks at the end, and an own copy of a shared block that
  // would be written to. The sequence is as before if it throws.
  void reserve(std::int64_t tokens);
  // After keys and values of these tokens were written; reserved before.
  void advance(std::span<const std::int32_t> ids);
  // After a run on a tree of drafts: keeps some of its rows, ascending, as the next tokens, `ids`, and
  // drops the others. Reserved before; throws kInvalidArgument for rows in another order.
  void accept(std::span<const std::int32_t> rows, std::span<const std::int32_t> ids);
  // Drops everything from `length` on, and the blocks that only it used. With no more left than what
  // an eviction keeps, nothing counts as dropped any more.
  void rewind(std::int64_t length);
  // Drops everything, the prefix included, which is none any more.
  void clear();
  // A sequence with the same prefix and first tokens, sharing their blocks.
  KvSequence fork(std::int64_t length) const;

  // Sets what to drop when the context is full, while nothing was. Forks have the same.
  void set_eviction(const Eviction& eviction) noexcept { eviction_ = eviction; }
  const std::optional<Eviction>& eviction() const noexcept { return eviction_; }
  // How many more tokens it can hold before some must be dropped.
  std::int64_t room() const noexcept {
    return eviction_ ? eviction_->context - length() : std::numeric_limits<std::int64_t>::max();
  }
  // Tokens that were dropped behind the eviction's first ones.
  std::int64_t evicted() const noexcept { return evicted_; }
  // Tokens that it was given: those it holds and those that were dropped.
  std::int64_t given() const noexcept { return length() + evicted_; }
  // Makes its blocks from that of `position` on its own, so that what they hold may change: shared
  // ones are copied. The sequence is as before if it throws.
  void own_from(std::int64_t position);
  // After what stood behind them was moved into their place: forgets `count` tokens from `position`
  // on, which is where those begin that an eviction drops.
  void drop(std::int64_t position, std::int64_t count);
  // Counts that many tokens as dropped, though they were not read.
  void skip(std::int64_t count) noexcept { evicted_ = count; }

  // Of graph/rotary.h: by which frequencies its keys were rotated.
  std::int64_t rotary_epoch() const noexcept { return rotary_epoch_; }
  // While it is empty.
  void begin_epoch(std::int64_t epoch) noexcept { rotary_epoch_ = epoch; }

  // As programs read and write it, until the next reserve() or rewind().
  KvView view() const noexcept { return {pointers_, pool_->layer_bytes(), pool_->shape().dtype}; }

 private:
  // Copies the keys and values of one position to another.
  void move(std::int64_t from, std::int64_t to) noexcept;
  // An own copy of each shared block in [first, end), then new blocks up to `needed`.
  void take_blocks(std::size_t first, std::size_t needed);
  void release_behind(std::size_t blocks) noexcept;

  std::shared_ptr<KvPool> pool_;
  std::vector<std::int32_t> ids_;
  // How many of them are the prefix.
  std::int64_t prefix_ = 0;
  std::int64_t rotary_epoch_ = 0;
  std::optional<Eviction> eviction_;
  std::int64_t evicted_ = 0;
  std::vector<BlockId> blocks_;
  // The same, as programs find them.
  std::vector<std::byte*> pointers_;
};

}  // namespace tandem
