// Which tables a processor can run, and what their attention needs.
#include <algorithm>

#include "kernels/tables.h"

namespace tandem {

std::vector<const Kernels*> available_kernels(const CpuFeatures& features) {
  std::vector<const Kernels*> tables = {&ref_kernels()};
  (void)features;
  return tables;
}

const Kernels& select_kernels(const CpuFeatures& features) noexcept {
  (void)features;
  return ref_kernels();
}

std::int64_t attention_scratch_floats(std::int64_t heads, std::int64_t kv_heads,
                                      std::int64_t head_dim) noexcept {
  const std::int64_t tile = std::max(kAttentionTileRows, heads / kv_heads);
  const std::int64_t dim = (head_dim + 15) / 16 * 16;
  // Keys and values of a block in float32; per row of the tile its accumulator, scores, largest
  // score and sum.
  return 2 * kKvBlockTokens * dim + tile * (dim + kKvBlockTokens + 2) + 16;
}

}  // namespace tandem
