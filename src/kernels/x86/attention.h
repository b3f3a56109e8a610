// KV blocks and attention on vectors V.
//
// A tile is a few rows with all query heads that share one KV head. For every block of 64 tokens it
// computes scores (register tiles of rows x columns over the keys [head_dim][64]), the online
// softmax of each row, and adds the weighted values. Only the tokens that a row attends to take
// part in its arithmetic, and always in the same order, so that a row's result depends neither on
// the tile nor on what else is in a block.
#pragma once

#include "kernels/tables.h"
#include "kernels/x86/exp.h"
#include "kernels/x86/unroll.h"

namespace tandem {
namespace {

template <typename V>
struct Attention {
  using Float = typename V::Float;
  static constexpr int kWidth = V::kWidth;
  static constexpr int kRows = V::kTileRows;
  static constexpr int kVectors = V::kTileVectors;
  static constexpr std::int64_t kTokens = kKvBlockTokens;

  // The tokens of a block that a row attends to; empty if there are none.
  struct Tokens {
    std::int64_t begin, end;
  };

  struct Tile {
    const AttentionArgs* args;
    // group: query heads per KV head.
    std::int64_t kv_head, group;
    // rows = queries * group.
    std::int64_t first_query, rows;
    // head_dim rounded up to 16.
    std::int64_t dim;
    // [head_dim][64] and [64][dim], converted.
    float *keys, *values;
    // [rows][dim]: queries times the scales of keys, for int8; else not used.
    float* queries;
    // [rows][dim], [rows][64].
    float *acc, *scores;
    // [rows] each.
    float *largest, *total, *correction;

    std::int64_t position(std::int64_t row) const {
      return args->first_position + first_query + row / group;
    }
    std::int64_t first_token(std::int64_t row) const {
      const std::int64_t first = args->window > 0 ? position(row) - args->window + 1 : 0;
      return first > 0 ? first : 0;
    }
    Tokens tokens(std::int64_t row, std::int64_t block) const {
      const std::int64_t begin = first_token(row) - block * kTokens;
      const std::int64_t end = position(row) + 1 - block * kTokens;
      return {begin > 0 ? begin : 0, end < kTokens ? end : kTokens};
    }
    std::int64_t offset(std::int64_t row, std::int64_t stride) const {
      return (first_query + row / group) * stride +
             (kv_head * group + row % group) * args->head_dim;
    }
    const float* query(std::int64_t row) const {
      return args->kv_dtype == DType::kI8 ? queries + row * dim
                                          : args->q + offset(row, args->q_stride);
    }
  };

  // A block's keys or values, either converted to float32 or in place.
  TANDEM_INLINE static Float load(const float* p) { return V::load(p); }
  TANDEM_INLINE static Float load(const std::uint16_t* p) { return V::load_f16(p); }
  TANDEM_INLINE static Float load(const std::int8_t* p) { return V::load_int8(p); }
  TANDEM_INLINE static Float load_part(const float* p, std::int64_t count) {
    return V::load_part(p, count);
  }
  TANDEM_INLINE static Float load_part(const std::uint16_t* p, std::int64_t count) {
    return V::load_f16_part(p, count);
  }
  TANDEM_INLINE static Float load_part(const std::int8_t* p, std::int64_t count) {
    return V::load_int8_part(p, count);
  }
  TANDEM_INLINE static void store_part(float* p, Float v, std::int64_t count) {
    V::store_part(p, v, count);
  }
  // Floats that are codes.
  TANDEM_INLINE static void store_part(std::int8_t* p, Float v, std::int64_t count) {
    V::store_int8_part(p, V::to_int(v), count);
  }
  TANDEM_INLINE static void store_part(std::uint16_t* p, Float v, std::int64_t count) {
    V::store_f16_part(p, v, count);
  }

  template <int kCount, typename T>
  static void score_rows(const Tile& tile, const T* keys, std::int64_t row) {
    const std::int64_t head_dim = tile.args->head_dim;
    const float* q[kCount];
    for (int r = 0; r < kCount; ++r) q[r] = tile.query(row + r);
    for (std::int64_t c = 0; c < kTokens; c += kVectors * kWidth) {
      Float sums[kCount][kVectors];
      unroll<kCount>([&](auto r) TANDEM_INLINE {
        unroll<kVectors>([&](auto v) TANDEM_INLINE { sums[r][v] = V::zero(); });
      });
      for (std::int64_t d = 0; d < head_dim; ++d) {
        Float w[kVectors];
        unroll<kVectors>([&](auto v)
                             TANDEM_INLINE { w[v] = load(keys + d * kTokens + c + v * kWidth); });
        unroll<kCount>([&](auto r) TANDEM_INLINE {
          const Float a = V::set1(q[r][d]);
          unroll<kVectors>([&](auto v) TANDEM_INLINE { sums[r][v] = V::fma(a, w[v], sums[r][v]); });
        });
      }
      unroll<kCount>([&](auto r) TANDEM_INLINE {
        unroll<kVectors>([&](auto v) TANDEM_INLINE {
          V::store(tile.scores + (row + r) * kTokens + c + v * kWidth, sums[r][v]);
        });
      });
    }
  }

  // Turns scores into weights e^(s - largest so far), zero outside `own`; rescales the row's sum to
  // the new largest score.
  static void softmax_row(const Tile& tile, std::int64_t row, Tokens own) {
    constexpr int kParts = static_cast<int>(kTokens) / kWidth;
    float* scores = tile.scores + row * kTokens;
    const Float scale = V::set1(tile.args->scale);
    const Float cap = V::set1(tile.args->softcap);
    const Float lowest = V::set1(-__builtin_inff());
    Float s[kParts];
    Float most = V::set1(tile.largest[row]);
    unroll<kParts>([&](auto i) TANDEM_INLINE {
      s[i] = V::mul(V::load(scores + i * kWidth), scale);
      if (tile.args->softcap > 0) s[i] = V::mul(cap, tanh<V>(V::div(s[i], cap)));
      s[i] = V::select_lanes(s[i], lowest, own.begin - i * kWidth, own.end - i * kWidth);
      most = V::max(most, s[i]);
    });
    const float largest = V::largest(most);
    const Float shift = V::set1(largest);
    Float sum = V::zero();
    unroll<kParts>([&](auto i) TANDEM_INLINE {
      const Float p = V::select_lanes(exp<V>(V::sub(s[i], shift)), V::zero(),
                                      own.begin - i * kWidth, own.end - i * kWidth);
      V::store(scores + i * kWidth, p);
      sum = V::add(sum, p);
    });
    // In the row's first block this is e^-inf, computed as e^-87, and multiplies zeros.
    float correction[kWidth];
    V::store(correction, exp<V>(V::set1(tile.largest[row] - largest)));
    tile.correction[row] = correction[0];
    tile.largest[row] = largest;
    tile.total[row] = tile.total[row] * correction[0] + V::sum(sum);
  }

  // acc = acc * correction + weights x values for rows with the same tokens, for one piece of
  // head_dim.
  template <int kCount, int kPiece, typename T>
  static void value_rows(const Tile& tile, const T* values, std::int64_t row, std::int64_t column,
                         Tokens own) {
    Float sums[kCount][kPiece];
    unroll<kCount>([&](auto r) TANDEM_INLINE {
      const Float correction = V::set1(tile.correction[row + r]);
      unroll<kPiece>([&](auto v) TANDEM_INLINE {
        sums[r][v] =
            V::mul(V::load(tile.acc + (row + r) * tile.dim + column + v * kWidth), correction);
      });
    });
    const float* weights = tile.scores + row * kTokens;
    for (std::int64_t t = own.begin; t < own.end; ++t) {
      Float w[kPiece];
      unroll<kPiece>(
          [&](auto v) TANDEM_INLINE { w[v] = load(values + t * tile.dim + column + v * kWidth); });
      unroll<kCount>([&](auto r) TANDEM_INLINE {
        const Float p = V::set1(weights[r * kTokens + t]);
        unroll<kPiece>([&](auto v) TANDEM_INLINE { sums[r][v] = V::fma(p, w[v], sums[r][v]); });
      });
    }
    unroll<kCount>([&](auto r) TANDEM_INLINE {
      unroll<kPiece>([&](auto v) TANDEM_INLINE {
        V::store(tile.acc + (row + r) * tile.dim + column + v * kWidth, sums[r][v]);
      });
    });
  }

  template <typename T>
  static void add_block(const Tile& tile, std::int64_t block, const T* keys, const T* values) {
    // Rows are ordered by position, so those with tokens in this block are contiguous.
    std::int64_t begin = 0;
    std::int64_t end = tile.rows;
    const auto none = [&](std::int64_t row) {
      const Tokens own = tile.tokens(row, block);
      return own.begin >= own.end;
    };
    while (begin < end && none(begin)) ++begin;
    while (end > begin && none(end - 1)) --end;

    for_row_blocks(end - begin, kRows, [&](std::int64_t first, std::int64_t count) {
      with_constant<kRows>(count,
                           [&](auto constant) { score_rows<constant>(tile, keys, begin + first); });
    });
    for (std::int64_t row = begin; row < end; ++row)
      softmax_row(tile, row, tile.tokens(row, block));

    const std::int64_t vectors = tile.dim / kWidth;
    while (begin < end) {
      const Tokens own = tile.tokens(begin, block);
      std::int64_t same = begin + 1;
      for (; same < end; ++same) {
        const Tokens other = tile.tokens(same, block);
        if (other.begin != own.begin || other.end != own.end) break;
      }
      for_row_blocks(same - begin, kRows, [&](std::int64_t first, std::int64_t count) {
        for (std::int64_t v = 0; v < vectors; v += kVectors)
          with_constant<kRows>(count, [&](auto constant) {
            with_constant<kVectors>(
                vectors - v < kVectors ? vectors - v : kVectors, [&](auto piece) {
                  value_rows<constant, piece>(tile, values, begin + first, v * kWidth, own);
                });
          });
      });
      begin = same;
    }
  }

  // Converts tokens [0, count) of a block to float32.
  template <typename T>
  static void convert_block(const Tile& tile, const T* keys, const T* values, std::int64_t count) {
    const std::int64_t head_dim = tile.args->head_dim;
    for (std::int64_t i = 0; i < head_dim * kTokens; i += kWidth)
      V::store(tile.keys + i, load(keys + i));
    for (std::int64_t t = 0; t < count; ++t)
      for (std::int64_t d = 0; d < tile.dim; d += kWidth)
        V::store(tile.values + t * tile.dim + d,
                 d + kWidth <= head_dim ? load(values + t * head_dim + d)
                 : d < head_dim         ? load_part(values + t * head_dim + d, head_dim - d)
                                        : V::zero());
  }

  static void scale_queries(const Tile& tile) {
    const AttentionArgs& args = *tile.args;
    const float* scales = args.kv_scales.k + tile.kv_head * args.head_dim;
    for (std::int64_t r = 0; r < tile.rows; ++r) {
      const float* q = args.q + tile.offset(r, args.q_stride);
      for (std::int64_t d = 0; d < args.head_dim; ++d)
        tile.queries[r * tile.dim + d] = q[d] * scales[d];
    }
  }

  // T: the element type of the blocks, float16 (as its bits), float32 or int8.
  template <typename T>
  static void run_tile(const Tile& tile) {
    const AttentionArgs& args = *tile.args;
    for (std::int64_t i = 0; i < tile.rows * tile.dim; ++i) tile.acc[i] = 0;
    for (std::int64_t r = 0; r < tile.rows; ++r) {
      tile.largest[r] = -__builtin_inff();
      tile.total[r] = 0;
    }
    if (args.kv_dtype == DType::kI8) scale_queries(tile);
    // Converting pays off if several register tiles use the result; whole vectors need no padding.
    const bool direct = tile.rows <= kRows && tile.dim == args.head_dim;
    const std::int64_t last = tile.position(tile.rows - 1);
    const std::int64_t head_elements = args.head_dim * kTokens;
    for (std::int64_t b = tile.first_token(0) / kTokens; b <= last / kTokens; ++b) {
      const auto* block = reinterpret_cast<const T*>(args.blocks[b] + args.block_offset);
      const T* keys = block + tile.kv_head * head_elements;
      const T* values = keys + args.kv_heads * head_elements;
      if (direct) {
        add_block(tile, b, keys, values);
      } else {
        const std::int64_t count = last + 1 - b * kTokens;
        convert_block(tile, keys, values, count < kTokens ? count : kTokens);
        add_block<float>(tile, b, tile.keys, tile.values);
      }
    }
    for (std::int64_t r = 0; r < tile.rows; ++r) {
      float* out = args.out + tile.offset(r, args.out_stride);
      const Float total = V::set1(tile.total[r]);
      for (std::int64_t d = 0; d < args.head_dim; d += kWidth) {
        Float mean = V::div(V::load(tile.acc + r * tile.dim + d), total);
        if (args.kv_dtype == DType::kI8)
          mean = V::mul(mean, V::load_part(args.kv_scales.v + tile.kv_head * args.head_dim + d,
                                           args.head_dim - d));
        V::store_part(out + d, mean, args.head_dim - d);
      }
    }
  }

  static void attention(const AttentionArgs& args, std::int64_t kv_head, Range rows,
                        float* scratch) noexcept {
    Tile tile;
    tile.args = &args;
    tile.kv_head = kv_head;
    tile.group = args.heads / args.kv_heads;
    tile.dim = (args.head_dim + 15) / 16 * 16;
    const std::int64_t queries =
        tile.group < kAttentionTileRows ? kAttentionTileRows / tile.group : 1;
    const std::int64_t most = queries * tile.group;
    tile.keys = scratch;
    tile.values = tile.keys + tile.dim * kTokens;
    tile.queries = tile.values + kTokens * tile.dim;
    tile.acc = tile.queries + most * tile.dim;
    tile.scores = tile.acc + most * tile.dim;
    tile.largest = tile.scores + most * kTokens;
    tile.total = tile.largest + most;
    tile.correction = tile.total + most;
    for (std::int64_t r = rows.begin; r < rows.end; r += queries) {
      tile.first_query = r;
      tile.rows = (rows.end - r < queries ? rows.end - r : queries) * tile.group;
      if (args.kv_dtype == DType::kF32) {
        run_tile<float>(tile);
      } else if (args.kv_dtype == DType::kI8) {
        run_tile<std::int8_t>(tile);
      } else {
        run_tile<std::uint16_t>(tile);
      }
    }
  }

  // x / scale as a code, still a float; x where there are no scales.
  TANDEM_INLINE static Float to_code(Float x, const float* scales, std::int64_t channel,
                                     std::int64_t count) {
    if (scales == nullptr) return x;
    // Lanes beyond `count` are 0 / 0, which no code comes from.
    const Float scaled = V::div(x, V::load_part(scales + channel, count));
    return V::round(V::min(V::max(scaled, V::set1(-127.0F)), V::set1(127.0F)));
  }

  template <typename T>
  static void store_row(const float* k, const float* v, std::int64_t kv_heads,
                        std::int64_t head_dim, std::int64_t slot, T* keys, const KvScales& scales) {
    T* values = keys + kv_heads * head_dim * kTokens;
    for (std::int64_t h = 0; h < kv_heads; ++h) {
      for (std::int64_t d = 0; d < head_dim; d += kWidth) {
        const std::int64_t i = h * head_dim + d;
        const std::int64_t count = head_dim - d < kWidth ? head_dim - d : kWidth;
        T column[kWidth];
        store_part(column, to_code(V::load_part(k + i, count), scales.k, i, count), kWidth);
        for (std::int64_t j = 0; j < count; ++j) keys[(i + j) * kTokens + slot] = column[j];
        store_part(values + (h * kTokens + slot) * head_dim + d,
                   to_code(V::load_part(v + i, count), scales.v, i, count), count);
      }
    }
  }

  static void store_kv(const float* k, const float* v, std::int64_t kv_heads, std::int64_t head_dim,
                       std::int64_t slot, std::byte* block, DType dtype,
                       const KvScales& scales) noexcept {
    if (dtype == DType::kF32) {
      store_row(k, v, kv_heads, head_dim, slot, reinterpret_cast<float*>(block), {});
    } else if (dtype == DType::kI8) {
      store_row(k, v, kv_heads, head_dim, slot, reinterpret_cast<std::int8_t*>(block), scales);
    } else {
      store_row(k, v, kv_heads, head_dim, slot, reinterpret_cast<std::uint16_t*>(block), {});
    }
  }
};

}  // namespace
}  // namespace tandem
