// Prefetching: while the rows of one panel are computed, their tiles fetch the next panel from
// memory, a little in each step, so that its first tile does not have to wait.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/x86/intrinsics.h"
#include "kernels/x86/unroll.h"

namespace tandem {
namespace {

inline constexpr std::int64_t kFarBytes = 8192;

// For a panel that is read once: prefetches the data 8 KiB further along its stream. The hardware
// prefetchers stop at every page, which costs a fifth of the speed.
TANDEM_INLINE inline void fetch_far(const void* p) {
  _mm_prefetch(static_cast<const char*>(p) + kFarBytes, _MM_HINT_T1);
}

// What a tile prefetches: in step i, the cache line at from + i * stride. A stride of 0 prefetches
// nothing new.
struct Prefetch {
  const std::byte* from;
  std::int64_t stride;

  TANDEM_INLINE void fetch(std::int64_t step) const {
    _mm_prefetch(reinterpret_cast<const char*>(from + step * stride), _MM_HINT_T1);
  }
};

// For the tile that starts at row `first` of `rows`, split into blocks of at most `most`: its share
// of the data at `next`, which is as large as what it reads itself, `steps` * `step_bytes` at
// `current`. With only one or two blocks, which are memory-bound throughout, it prefetches further
// along its own stream instead.
TANDEM_INLINE inline Prefetch prefetch_for(const std::byte* current, const std::byte* next,
                                           std::int64_t steps, std::int64_t step_bytes,
                                           std::int64_t first, std::int64_t rows,
                                           std::int64_t most) {
  const std::int64_t blocks = (rows + most - 1) / most;
  if (blocks < 3) return {current + kFarBytes, step_bytes};
  const std::int64_t stride = step_bytes / blocks > 16 ? step_bytes / blocks : 16;
  const std::int64_t offset = first * blocks / rows * steps * stride;
  return {next + offset, offset < steps * step_bytes ? stride : 0};
}

}  // namespace
}  // namespace tandem
