// Allocation and reference counting of KV blocks, and the block lists of sequences.
#include "execute/kv_pool.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "base/error.h"
#include "kernels/kernels.h"

namespace tandem {
namespace {

constexpr std::align_val_t kAlignment{64};
// What is allocated at once, at least: small blocks of small models share an allocation, blocks of
// real models are a few megabytes each.
constexpr std::int64_t kSlabBytes = std::int64_t{1} << 20;

std::int64_t blocks_for(std::int64_t tokens) noexcept {
  return (tokens + kKvBlockTokens - 1) / kKvBlockTokens;
}

std::size_t index(std::int64_t i) noexcept { return static_cast<std::size_t>(i); }

}  // namespace

std::int64_t default_kv_limit() {
  const std::int64_t pages = ::sysconf(_SC_PHYS_PAGES);
  const std::int64_t bytes = ::sysconf(_SC_PAGESIZE);
  constexpr std::int64_t kUnknown = std::int64_t{4} << 30;
  return pages > 0 && bytes > 0 ? pages * bytes / 2 : kUnknown;
}

void KvPool::Free::operator()(std::byte* memory) const noexcept {
  ::operator delete[](memory, kAlignment);
}

KvPool::KvPool(const KvShape& shape, std::int64_t limit) : shape_(shape) {
  if (shape.dtype != DType::kF16 && shape.dtype != DType::kF32 && shape.dtype != DType::kI8)
    fail(ErrorCode::kUnsupported, "[kv cache] expected F16, F32 or I8, got {}",
         to_string(shape.dtype));
  layer_bytes_ = kv_block_bytes(shape.kv_heads, shape.head_dim, shape.dtype);
  if (shape.layers < 1 || layer_bytes_ < 1)
    fail(ErrorCode::kInvalidArgument,
         "[kv cache] expected layers, heads and head_dim above 0, got {}, {} and {}", shape.layers,
         shape.kv_heads, shape.head_dim);
  max_blocks_ = std::min<std::int64_t>(limit / block_bytes(), std::numeric_limits<BlockId>::max());
  if (max_blocks_ < 1)
    fail(ErrorCode::kInvalidArgument,
         "[kv cache] a limit of {} bytes: expected room for at least one block of {}", limit,
         block_bytes());
  slab_blocks_ = std::clamp<std::int64_t>(kSlabBytes / block_bytes(), 1, max_blocks_);
  slabs_.resize(index((max_blocks_ + slab_blocks_ - 1) / slab_blocks_));
}

std::int64_t KvPool::blocks_in_use() const {
  const std::lock_guard lock(mutex_);
  return in_use_;
}

std::byte* KvPool::data(BlockId id) const noexcept {
  return slabs_[index(id / slab_blocks_)].get() + id % slab_blocks_ * block_bytes();
}

BlockId KvPool::allocate() {
  const std::lock_guard lock(mutex_);
  if (free_.empty()) {
    const auto first = static_cast<std::int64_t>(references_.size());
    if (first >= max_blocks_)
      fail(ErrorCode::kInvalidArgument,
           "[kv cache] {} blocks of {} tokens and {:.1f} MB are in use, no more fit in its limit",
           in_use_, kKvBlockTokens, static_cast<double>(block_bytes()) * 1e-6);
    const std::int64_t count = std::min(slab_blocks_, max_blocks_ - first);
    const auto bytes = index(count * block_bytes());
    // Room to give every block back without allocating.
    free_.reserve(index(first + count));
    references_.reserve(index(first + count));
    Slab slab(static_cast<std::byte*>(::operator new[](bytes, kAlignment)));
    // Attention reads whole blocks and masks what lies beyond the sequence; zeros keep that free of
    // NaN.
    std::memset(slab.get(), 0, bytes);
    slabs_[index(first / slab_blocks_)] = std::move(slab);
    for (std::int64_t i = count - 1; i >= 0; --i) {
      references_.push_back(0);
      free_.push_back(static_cast<BlockId>(first + i));
    }
  }
  const BlockId id = free_.back();
  free_.pop_back();
  references_[index(id)] = 1;
  ++in_use_;
  return id;
}

void KvPool::share(BlockId id) noexcept {
  const std::lock_guard lock(mutex_);
  ++references_[index(id)];
}

void KvPool::release(BlockId id) noexcept {
  const std::lock_guard lock(mutex_);
  if (--references_[index(id)] > 0) return;
  free_.push_back(id);
  --in_use_;
}

bool KvPool::is_shared(BlockId id) const noexcept {
  const std::lock_guard lock(mutex_);
  return references_[index(id)] > 1;
}

KvSequence::~KvSequence() {
  for (const BlockId id : blocks_) pool_->release(id);
}

KvSequence::KvSequence(KvSequence&& other) noexcept
    : pool_(std::move(other.pool_)),
      ids_(std::exchange(other.ids_, {})),
      prefix_(std::exchange(other.prefix_, 0)),
      rotary_epoch_(other.rotary_epoch_),
      eviction_(other.eviction_),
      evicted_(std::exchange(other.evicted_, 0)),
      blocks_(std::exchange(other.blocks_, {})),
      pointers_(std::exchange(other.pointers_, {})) {}

KvSequence& KvSequence::operator=(KvSequence&& other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(ids_, other.ids_);
  std::swap(prefix_, other.prefix_);
  std::swap(rotary_epoch_, other.rotary_epoch_);
  std::swap(eviction_, other.eviction_);
  std::swap(evicted_, other.evicted_);
  std::swap(blocks_, other.blocks_);
  std::swap(pointers_, other.pointers_);
  return *this;
}

void KvSequence::reserve(std::int64_t tokens) {
  // The first block that will be written to, and those behind it, may be shared.
  take_blocks(index(position() / kKvBlockTokens), index(blocks_for(position() + tokens)));
}

void KvSequence::own_from(std::int64_t position) {
  take_blocks(index(position / kKvBlockTokens), blocks_.size());
}

void KvSequence::take_blocks(std::size_t first, std::size_t needed) {
  blocks_.reserve(needed);
  pointers_.reserve(needed);
  std::vector<std::size_t> shared;
  for (std::size_t b = first; b < std::min(needed, blocks_.size()); ++b)
    if (pool_->is_shared(blocks_[b])) shared.push_back(b);
  const std::size_t more = needed - std::min(needed, blocks_.size());
  // All that could throw comes first, and gives back what it took.
  std::vector<BlockId> fresh;
  fresh.reserve(shared.size() + more);
  try {
    while (fresh.size() < shared.size() + more) fresh.push_back(pool_->allocate());
  } catch (...) {
    for (const BlockId id : fresh) pool_->release(id);
    throw;
  }
  auto next = fresh.begin();
  for (const std::size_t b : shared) {
    std::byte* own = pool_->data(*next);
    std::memcpy(own, pointers_[b], index(pool_->block_bytes()));
    pool_->release(blocks_[b]);
    blocks_[b] = *next++;
    pointers_[b] = own;
  }
  for (; next != fresh.end(); ++next) {
    blocks_.push_back(*next);
    pointers_.push_back(pool_->data(*next));
  }
}

void KvSequence::advance(std::span<const std::int32_t> ids) {
  ids_.insert(ids_.end(), ids.begin(), ids.end());
}

void KvSequence::move(std::int64_t from, std::int64_t to) noexcept {
  const KvShape& shape = pool_->shape();
  const std::size_t bytes = size_of(shape.dtype);
  const std::size_t channels = index(shape.kv_heads * shape.head_dim);
  const std::size_t head = index(shape.head_dim) * bytes;
  const auto slot = [](std::int64_t position) { return index(position % kKvBlockTokens); };
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    const std::int64_t offset = layer * pool_->layer_bytes();
    const std::byte* source = pointers_[index(from / kKvBlockTokens)] + offset;
    std::byte* target = pointers_[index(to / kKvBlockTokens)] + offset;
    for (std::size_t c = 0; c < channels; ++c)
      std::memcpy(target + (c * kKvBlockTokens + slot(to)) * bytes,
                  source + (c * kKvBlockTokens + slot(from)) * bytes, bytes);
    source += channels * kKvBlockTokens * bytes;
    target += channels * kKvBlockTokens * bytes;
    for (std::size_t h = 0; h < index(shape.kv_heads); ++h)
      std::memcpy(target + (h * kKvBlockTokens + slot(to)) * head,
                  source + (h * kKvBlockTokens + slot(from)) * head, head);
  }
}

void KvSequence::accept(std::span<const std::int32_t> rows, std::span<const std::int32_t> ids) {
  std::int32_t last = -1;
  for (const std::int32_t row : rows) {
    const bool is_there = row > last && blocks_for(position() + row + 1) <= std::ssize(blocks_);
    if (!is_there || rows.size() != ids.size())
      fail(ErrorCode::kInvalidArgument,
           "[kv cache] row {} after {} of a tree: expected rows in order, one for each token", row,
           last);
    last = row;
  }
  // No row moves behind one that is still to be moved.
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (rows[i] != static_cast<std::int32_t>(i))
      move(position() + rows[i], position() + static_cast<std::int64_t>(i));
  advance(ids);
}

void KvSequence::rewind(std::int64_t length) {
  if (length < 0 || length > this->length())
    fail(ErrorCode::kInvalidArgument, "[kv cache] cannot rewind to {} tokens, the sequence has {}",
         length, this->length());
  if (eviction_ && length < this->length() && length <= eviction_->sinks) evicted_ = 0;
  ids_.resize(index(prefix_ + length));
  release_behind(index(blocks_for(position())));
}

void KvSequence::drop(std::int64_t position, std::int64_t count) {
  const auto first = ids_.begin() + position;
  ids_.erase(first, first + count);
  evicted_ += count;
  release_behind(index(blocks_for(this->position())));
}

void KvSequence::release_behind(std::size_t blocks) noexcept {
  while (blocks_.size() > blocks) {
    pool_->release(blocks_.back());
    blocks_.pop_back();
    pointers_.pop_back();
  }
}

void KvSequence::clear() {
  prefix_ = 0;
  rewind(0);
  evicted_ = 0;
}

KvSequence KvSequence::fork(std::int64_t length) const {
  if (length < 0 || length > this->length())
    fail(ErrorCode::kInvalidArgument, "[kv cache] cannot share {} tokens, the sequence has {}",
         length, this->length());
  KvSequence copy(pool_);
  const auto kept = index(blocks_for(prefix_ + length));
  copy.ids_.assign(ids_.begin(), ids_.begin() + prefix_ + length);
  copy.prefix_ = prefix_;
  copy.rotary_epoch_ = rotary_epoch_;
  copy.eviction_ = eviction_;
  if (eviction_ && length > eviction_->sinks) copy.evicted_ = evicted_;
  copy.blocks_.reserve(kept);
  copy.pointers_.assign(pointers_.begin(), pointers_.begin() + static_cast<std::ptrdiff_t>(kept));
  for (std::size_t b = 0; b < kept; ++b) {
    pool_->share(blocks_[b]);
    copy.blocks_.push_back(blocks_[b]);
  }
  return copy;
}

}  // namespace tandem
