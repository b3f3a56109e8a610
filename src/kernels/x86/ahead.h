// Reading ahead: while the rows of one panel are computed, their tiles fetch the next panel from
// memory, a little in each step, so that its first tile does not wait.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/x86/intrinsics.h"
#include "kernels/x86/unroll.h"

namespace tandem {
namespace {

// What a tile asks for: in step i, the line at from + i * stride. A stride of 0 asks for nothing
// new.
struct Ahead {
  const std::byte* from;
  std::int64_t stride;

  TANDEM_INLINE void fetch(std::int64_t step) const {
    _mm_prefetch(reinterpret_cast<const char*>(from + step * stride), _MM_HINT_T1);
  }
};

// The share of the tile that starts at row `first` of `rows`, cut in blocks of at most `most`, in
// the `steps` * `step_bytes` at `next`. One or two blocks are themselves bound by memory, and leave
// it to the processor.
TANDEM_INLINE inline Ahead ahead_of(const std::byte* next, std::int64_t steps,
                                    std::int64_t step_bytes, std::int64_t first, std::int64_t rows,
                                    std::int64_t most) {
  const std::int64_t blocks = (rows + most - 1) / most;
  if (blocks < 3) return {next, 0};
  const std::int64_t stride = step_bytes / blocks > 16 ? step_bytes / blocks : 16;
  const std::int64_t offset = first * blocks / rows * steps * stride;
  return {next + offset, offset < steps * step_bytes ? stride : 0};
}

}  // namespace
}  // namespace tandem
