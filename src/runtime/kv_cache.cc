#include "runtime/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "base/error.h"
#include "kernels/kernels.h"

namespace tandem {
namespace {

constexpr std::align_val_t kAlignment{64};

struct AlignedDelete {
  void operator()(std::byte* memory) const noexcept { ::operator delete[](memory, kAlignment); }
};
using BlockMemory = std::unique_ptr<std::byte[], AlignedDelete>;

std::int64_t blocks_for(std::int64_t tokens) noexcept {
  return (tokens + kKvBlockTokens - 1) / kKvBlockTokens;
}

}  // namespace

struct KvPool::FreeList {
  std::vector<BlockMemory> blocks;
  std::int64_t in_use = 0;
};

KvPool::KvPool(std::int64_t layers, std::int64_t kv_heads, std::int64_t head_dim, DType dtype)
    : layers_(layers),
      block_bytes_(kv_block_bytes(kv_heads, head_dim, dtype)),
      dtype_(dtype),
      free_(std::make_shared<FreeList>()) {}

std::int64_t KvPool::blocks_in_use() const noexcept { return free_->in_use; }

std::shared_ptr<std::byte> KvPool::allocate() {
  BlockMemory block;
  if (free_->blocks.empty()) {
    const auto bytes = static_cast<std::size_t>(block_bytes_);
    block.reset(static_cast<std::byte*>(::operator new[](bytes, kAlignment)));
    // Attention reads whole blocks and masks what lies beyond the sequence; zeros keep that free of
    // NaN.
    std::memset(block.get(), 0, bytes);
  } else {
    block = std::move(free_->blocks.back());
    free_->blocks.pop_back();
  }
  ++free_->in_use;
  return {block.release(), [free = free_](std::byte* memory) {
            free->blocks.emplace_back(memory);
            --free->in_use;
          }};
}

KvSequence::KvSequence(KvPool& pool)
    : pool_(&pool),
      blocks_(static_cast<std::size_t>(pool.layers())),
      pointers_(static_cast<std::size_t>(pool.layers())) {}

void KvSequence::reserve(std::int64_t tokens) {
  const auto needed = static_cast<std::size_t>(blocks_for(length() + tokens));
  const auto written =
      static_cast<std::size_t>(length() / kKvBlockTokens);  // first block that will be written to
  for (std::size_t layer = 0; layer < blocks_.size(); ++layer) {
    auto& blocks = blocks_[layer];
    for (std::size_t b = written; b < blocks.size() && b < needed; ++b) {
      if (blocks[b].use_count() == 1) continue;
      std::shared_ptr<std::byte> own = pool_->allocate();
      std::memcpy(own.get(), blocks[b].get(), static_cast<std::size_t>(pool_->block_bytes()));
      pointers_[layer][b] = own.get();
      blocks[b] = std::move(own);
    }
    while (blocks.size() < needed) {
      blocks.push_back(pool_->allocate());
      pointers_[layer].push_back(blocks.back().get());
    }
  }
}

void KvSequence::rewind(std::int64_t length) {
  if (length < 0 || length > this->length()) {
    fail(ErrorCode::kInvalidArgument, "[kv cache] cannot rewind to {} tokens, the sequence has {}",
         length, this->length());
  }
  ids_.resize(static_cast<std::size_t>(length));
  const auto kept = static_cast<std::size_t>(blocks_for(length));
  for (std::size_t layer = 0; layer < blocks_.size(); ++layer) {
    blocks_[layer].resize(std::min(kept, blocks_[layer].size()));
    pointers_[layer].resize(blocks_[layer].size());
  }
}

KvSequence KvSequence::fork(std::int64_t length) const {
  KvSequence copy = *this;
  copy.rewind(length);
  return copy;
}

}  // namespace tandem
