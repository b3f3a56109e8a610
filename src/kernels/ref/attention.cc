// KV blocks and attention, one query head of one row at a time.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/ref/ref.h"
#include "tensor/half.h"

namespace tandem::ref {

namespace {

constexpr std::int64_t kTokens = kKvBlockTokens;

// Element `index` of a block: a float, or a code.
float load(const std::byte* from, std::int64_t index, DType dtype) {
  if (dtype == DType::kI8) return static_cast<float>(static_cast<std::int8_t>(from[index]));
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, from + 4 * index, sizeof(value));
    return value;
  }
  std::uint16_t half;
  std::memcpy(&half, from + 2 * index, sizeof(half));
  return f16_to_float(half);
}

// `scales`: by channel, for codes.
void store(std::byte* to, std::int64_t index, float value, DType dtype, const float* scales,
           std::int64_t channel) {
  if (dtype == DType::kI8) {
    const float scaled = value / scales[channel];
    const float above = scaled > -127.0F ? scaled : -127.0F;
    to[index] = static_cast<std::byte>(
        static_cast<std::int8_t>(std::nearbyint(above < 127.0F ? above : 127.0F)));
    return;
  }
  if (dtype == DType::kF32) {
    std::memcpy(to + 4 * index, &value, sizeof(value));
    return;
  }
  const std::uint16_t half = float_to_f16(value);
  std::memcpy(to + 2 * index, &half, sizeof(half));
}

// One row of one head over tokens [first, last]; `scratch` holds 2 * head_dim floats.
void attend(const AttentionArgs& args, std::int64_t kv_head, const float* query, std::int64_t first,
            std::int64_t last, float* scratch, float* out) {
  const std::int64_t dim = args.head_dim;
  float* q = scratch;
  float* accumulator = scratch + dim;
  const KvScales& scales = args.kv_scales;
  for (std::int64_t d = 0; d < dim; ++d)
    q[d] = args.kv_dtype == DType::kI8 ? query[d] * scales.k[kv_head * dim + d] : query[d];
  float largest = -INFINITY;
  float total = 0;
  std::fill_n(accumulator, dim, 0.0F);
  for (std::int64_t b = first / kTokens; b <= last / kTokens; ++b) {
    const auto head_bytes = dim * kTokens * static_cast<std::int64_t>(size_of(args.kv_dtype));
    const std::byte* keys = args.blocks[b] + args.block_offset + kv_head * head_bytes;
    const std::byte* values = keys + args.kv_heads * head_bytes;
    const std::int64_t begin = std::max<std::int64_t>(first - b * kTokens, 0);
    const std::int64_t end = std::min<std::int64_t>(last - b * kTokens + 1, kTokens);

    float scores[kTokens];
    float block_largest = largest;
    for (std::int64_t t = begin; t < end; ++t) {
      float dot = 0;
      for (std::int64_t d = 0; d < dim; ++d)
        dot = std::fma(q[d], load(keys, d * kTokens + t, args.kv_dtype), dot);
      scores[t] = dot * args.scale;
      if (args.softcap > 0) scores[t] = args.softcap * std::tanh(scores[t] / args.softcap);
      block_largest = std::max(block_largest, scores[t]);
    }
    const float correction = std::exp(largest - block_largest);
    largest = block_largest;
    total *= correction;
    for (std::int64_t d = 0; d < dim; ++d) accumulator[d] *= correction;
    for (std::int64_t t = begin; t < end; ++t) {
      const float p = std::exp(scores[t] - largest);
      total += p;
      for (std::int64_t d = 0; d < dim; ++d)
        accumulator[d] = std::fma(p, load(values, t * dim + d, args.kv_dtype), accumulator[d]);
    }
  }
  for (std::int64_t d = 0; d < dim; ++d) {
    out[d] = accumulator[d] / total;
    if (args.kv_dtype == DType::kI8) out[d] *= scales.v[kv_head * dim + d];
  }
}

}  // namespace

void store_kv(const float* k, const float* v, std::int64_t kv_heads, std::int64_t head_dim,
              std::int64_t slot, std::byte* block, DType dtype, const KvScales& scales) noexcept {
  std::byte* values =
      block + kv_heads * head_dim * kTokens * static_cast<std::int64_t>(size_of(dtype));
  for (std::int64_t h = 0; h < kv_heads; ++h)
    for (std::int64_t d = 0; d < head_dim; ++d) {
      const std::int64_t channel = h * head_dim + d;
      store(block, channel * kTokens + slot, k[channel], dtype, scales.k, channel);
      store(values, (h * kTokens + slot) * head_dim + d, v[channel], dtype, scales.v, channel);
    }
}

void attention(const AttentionArgs& args, std::int64_t kv_head, Range rows,
               float* scratch) noexcept {
  const std::int64_t group = args.heads / args.kv_heads;
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const std::int64_t last = args.first_position + r;
    const std::int64_t first =
        args.window > 0 ? std::max<std::int64_t>(0, last - args.window + 1) : 0;
    for (std::int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h)
      attend(args, kv_head, args.q + r * args.q_stride + h * args.head_dim, first, last, scratch,
             args.out + r * args.out_stride + h * args.head_dim);
  }
}

}  // namespace tandem::ref
