// Attention in integers, one query head of one row at a time.
#include <algorithm>
#include <vector>

#include "kernels/ref/ref.h"
#include "kernels/softmax16.h"

namespace tandem::ref {
namespace {

constexpr std::int64_t kTokens = kKvBlockTokens;

const std::int8_t* head_of(const IntAttentionArgs& args, std::int64_t column, std::int64_t head) {
  return reinterpret_cast<const std::int8_t*>(args.blocks[column / kTokens] + args.block_offset) +
         head * args.head_dim * kTokens;
}

}  // namespace

void int_attention(const IntAttentionArgs& args, std::int64_t kv_head, Range rows,
                   std::byte* scratch) noexcept {
  const std::int64_t group = args.heads / args.kv_heads, dim = args.head_dim;
  auto* scores = reinterpret_cast<std::int32_t*>(scratch);
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const std::int64_t end = args.first_position + r + 1;
    for (std::int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      const std::int16_t* q = args.q + r * args.q_stride + h * dim;
      std::int32_t largest = kHidden;
      for (std::int64_t c = 0; c < end; ++c) {
        scores[c] = kHidden;
        if (!is_visible(args.mask, args.first_position, r, c)) continue;
        const std::int8_t* keys = head_of(args, c, kv_head);
        std::int32_t sum = 0;
        for (std::int64_t d = 0; d < dim; ++d) sum += q[d] * keys[d * kTokens + c % kTokens];
        scores[c] = sum;
        largest = std::max(largest, sum);
      }
      std::uint64_t total = 0;
      for (std::int64_t c = 0; c < end; ++c) {
        const bool hidden = scores[c] == kHidden;
        scores[c] = hidden ? 0
                           : power16(static_cast<std::uint64_t>(std::int64_t{largest} - scores[c]),
                                     args.octaves);
        total += static_cast<std::uint64_t>(scores[c]);
      }
      const std::uint64_t reciprocal = reciprocal_of(total);
      float* out = args.out + r * args.out_stride + h * dim;
      for (std::int64_t d = 0; d < dim; ++d) {
        std::int32_t sum = 0;
        for (std::int64_t c = 0; c < end; ++c) {
          if (scores[c] == 0) continue;
          const std::int8_t* values = head_of(args, c, args.kv_heads + kv_head);
          sum += probability16(scores[c], reciprocal) * values[c % kTokens * dim + d];
        }
        out[d] = static_cast<float>(sum) * (args.v_scales[kv_head * dim + d] * kProbabilityUnit);
      }
    }
  }
}

}  // namespace tandem::ref
