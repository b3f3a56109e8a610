// Attention in integers on vectors V. A tile is a few rows with all query heads that share one KV
// head, as in attention.h. Scores are sums of products of int16 pairs; probabilities times values are
// summed in float32, which is exact: all of them are integers, and no sum is beyond 2^24.
#pragma once

#include <cstring>

#include "kernels/softmax16.h"
#include "kernels/tables.h"
#include "kernels/x86/unroll.h"

namespace tandem {
namespace {

template <typename V>
struct IntAttention {
  using Float = typename V::Float;
  using Int = typename V::Int;
  static constexpr int kWidth = V::kWidth;
  static constexpr int kRows = V::kTileRows;
  static constexpr int kVectors = V::kTileVectors;
  static constexpr std::int64_t kTokens = kKvBlockTokens;

  struct Tile {
    const IntAttentionArgs* args;
    // group: query heads per KV head.
    std::int64_t kv_head, group;
    // rows = queries * group.
    std::int64_t first_query, rows;
    // head_dim rounded up to 16, and columns of the row that has most, to 64.
    std::int64_t dim, columns;
    // [dim / 2][64][2]: pairs of channels of a block.
    std::int16_t* keys;
    // [rows][dim], zeros beyond head_dim.
    std::int16_t* queries;
    // [64][dim], codes.
    float* values;
    // [rows][dim].
    float* acc;
    // [rows][columns], later probabilities as floats.
    std::int32_t* scores;

    std::int64_t query(std::int64_t row) const { return first_query + row / group; }
    std::int64_t head(std::int64_t row) const { return kv_head * group + row % group; }
    float* probabilities(std::int64_t row) const {
      return reinterpret_cast<float*>(scores + row * columns);
    }
  };

  static void copy_queries(const Tile& tile) {
    const IntAttentionArgs& args = *tile.args;
    for (std::int64_t r = 0; r < tile.rows; ++r) {
      const std::int16_t* q = args.q + tile.query(r) * args.q_stride + tile.head(r) * args.head_dim;
      std::int16_t* to = tile.queries + r * tile.dim;
      for (std::int64_t d = 0; d < args.head_dim; ++d) to[d] = q[d];
      for (std::int64_t d = args.head_dim; d < tile.dim; ++d) to[d] = 0;
    }
  }

  static void convert_keys(const Tile& tile, const std::int8_t* keys) {
    const std::int64_t head_dim = tile.args->head_dim;
    for (std::int64_t d = 0; d < tile.dim; d += 2) {
      std::int16_t* to = tile.keys + d * kTokens;
      const std::int8_t* even = keys + (d < head_dim ? d : 0) * kTokens;
      const std::int8_t* odd = keys + (d + 1 < head_dim ? d + 1 : 0) * kTokens;
      for (std::int64_t t = 0; t < kTokens; ++t) {
        to[2 * t] = even[t];
        to[2 * t + 1] = odd[t];
      }
    }
  }

  static void convert_values(const Tile& tile, const std::int8_t* values) {
    const std::int64_t head_dim = tile.args->head_dim;
    for (std::int64_t t = 0; t < kTokens; ++t)
      for (std::int64_t d = 0; d < tile.dim; d += kWidth)
        V::store(tile.values + t * tile.dim + d,
                 d + kWidth <= head_dim ? V::load_int8(values + t * head_dim + d)
                 : d < head_dim         ? V::load_int8_part(values + t * head_dim + d, head_dim - d)
                                        : V::zero());
  }

  template <int kCount>
  static void score_rows(const Tile& tile, std::int64_t row, std::int64_t first_column) {
    const std::int16_t* q[kCount];
    for (int r = 0; r < kCount; ++r) q[r] = tile.queries + (row + r) * tile.dim;
    for (std::int64_t c = 0; c < kTokens; c += kVectors * kWidth) {
      Int sums[kCount][kVectors];
      unroll<kCount>([&](auto r) TANDEM_INLINE {
        unroll<kVectors>([&](auto v) TANDEM_INLINE { sums[r][v] = V::zero_int(); });
      });
      for (std::int64_t d = 0; d < tile.dim; d += 2) {
        Int w[kVectors];
        unroll<kVectors>([&](auto v) TANDEM_INLINE {
          w[v] = V::load_int(tile.keys + d * kTokens + 2 * (c + v * kWidth));
        });
        unroll<kCount>([&](auto r) TANDEM_INLINE {
          std::int32_t pair;
          std::memcpy(&pair, q[r] + d, sizeof(pair));
          const Int a = V::set1_int(pair);
          unroll<kVectors>([&](auto v) TANDEM_INLINE {
            sums[r][v] = V::add_int(sums[r][v], V::multiply_pairs(a, w[v]));
          });
        });
      }
      unroll<kCount>([&](auto r) TANDEM_INLINE {
        unroll<kVectors>([&](auto v) TANDEM_INLINE {
          V::store_int(tile.scores + (row + r) * tile.columns + first_column + c + v * kWidth,
                       sums[r][v]);
        });
      });
    }
  }

  static void hide(const Tile& tile, std::int64_t row) {
    const IntAttentionArgs& args = *tile.args;
    const std::int64_t query = tile.query(row);
    std::int32_t* scores = tile.scores + row * tile.columns;
    const std::int64_t first = args.mask.first[query];
    for (std::int64_t c = 0; c < (first < tile.columns ? first : tile.columns); ++c)
      scores[c] = kHidden;
    const bool causal = args.mask.visible == nullptr;
    for (std::int64_t c = args.first_position + (causal ? query + 1 : 0); c < tile.columns; ++c)
      if (causal || !is_visible(args.mask, args.first_position, query, c)) scores[c] = kHidden;
  }

  // Scores become probabilities, as floats.
  static void softmax_row(const Tile& tile, std::int64_t row) {
    std::int32_t* scores = tile.scores + row * tile.columns;
    const std::int64_t columns = tile.columns;
    std::int32_t largest = kHidden;
    for (std::int64_t c = 0; c < columns; ++c) largest = scores[c] > largest ? scores[c] : largest;
    const FixedMultiplier octaves = tile.args->octaves;
    std::uint32_t total = 0;
    for (std::int64_t c = 0; c < columns; ++c) {
      const std::uint32_t difference =
          static_cast<std::uint32_t>(largest) - static_cast<std::uint32_t>(scores[c]);
      const std::int32_t power = power16(difference, octaves);
      scores[c] = scores[c] == kHidden ? 0 : power;
      total += static_cast<std::uint32_t>(scores[c]);
    }
    const std::uint64_t reciprocal = reciprocal_of(total);
    for (std::int64_t c = 0; c < columns; ++c) {
      const auto p = static_cast<float>(probability16(scores[c], reciprocal));
      std::memcpy(scores + c, &p, sizeof(p));
    }
  }

  template <int kCount, int kPiece>
  static void value_rows(const Tile& tile, std::int64_t row, std::int64_t first_column,
                         std::int64_t column) {
    Float sums[kCount][kPiece];
    const float* p[kCount];
    unroll<kCount>([&](auto r) TANDEM_INLINE {
      p[r] = tile.probabilities(row + r) + first_column;
      unroll<kPiece>([&](auto v) TANDEM_INLINE {
        sums[r][v] = V::load(tile.acc + (row + r) * tile.dim + column + v * kWidth);
      });
    });
    for (std::int64_t t = 0; t < kTokens; ++t) {
      Float w[kPiece];
      unroll<kPiece>([&](auto v) TANDEM_INLINE {
        w[v] = V::load(tile.values + t * tile.dim + column + v * kWidth);
      });
      unroll<kCount>([&](auto r) TANDEM_INLINE {
        const Float a = V::set1(p[r][t]);
        unroll<kPiece>([&](auto v) TANDEM_INLINE { sums[r][v] = V::fma(a, w[v], sums[r][v]); });
      });
    }
    unroll<kCount>([&](auto r) TANDEM_INLINE {
      unroll<kPiece>([&](auto v) TANDEM_INLINE {
        V::store(tile.acc + (row + r) * tile.dim + column + v * kWidth, sums[r][v]);
      });
    });
  }

  static void run_tile(const Tile& tile) {
    const IntAttentionArgs& args = *tile.args;
    const std::int64_t head_bytes = args.head_dim * kTokens;
    const auto keys_of = [&](std::int64_t block) {
      return reinterpret_cast<const std::int8_t*>(args.blocks[block] + args.block_offset) +
             tile.kv_head * head_bytes;
    };
    // Rows of a tile are in order, and none begins before the first.
    std::int64_t first = args.mask.first[tile.query(0)];
    for (std::int64_t r = 1; r < tile.rows; ++r) {
      const std::int64_t other = args.mask.first[tile.query(r)];
      first = other < first ? other : first;
    }
    const std::int64_t begin = first / kTokens, end = tile.columns / kTokens;
    copy_queries(tile);
    for (std::int64_t i = 0; i < tile.rows * tile.dim; ++i) tile.acc[i] = 0;
    for (std::int64_t b = begin; b < end; ++b) {
      convert_keys(tile, keys_of(b));
      for_row_blocks(tile.rows, kRows, [&](std::int64_t row, std::int64_t count) {
        with_constant<kRows>(count,
                             [&](auto constant) { score_rows<constant>(tile, row, b * kTokens); });
      });
    }
    for (std::int64_t row = 0; row < tile.rows; ++row) {
      hide(tile, row);
      softmax_row(tile, row);
    }
    const std::int64_t vectors = tile.dim / kWidth;
    for (std::int64_t b = begin; b < end; ++b) {
      convert_values(tile, keys_of(b) + args.kv_heads * head_bytes);
      for_row_blocks(tile.rows, kRows, [&](std::int64_t row, std::int64_t count) {
        for (std::int64_t v = 0; v < vectors; v += kVectors)
          with_constant<kRows>(count, [&](auto constant) {
            with_constant<kVectors>(
                vectors - v < kVectors ? vectors - v : kVectors, [&](auto piece) {
                  value_rows<constant, piece>(tile, row, b * kTokens, v * kWidth);
                });
          });
      });
    }
    for (std::int64_t row = 0; row < tile.rows; ++row) {
      float* out = args.out + tile.query(row) * args.out_stride + tile.head(row) * args.head_dim;
      const float* scales = args.v_scales + tile.kv_head * args.head_dim;
      for (std::int64_t d = 0; d < args.head_dim; ++d)
        out[d] = tile.acc[row * tile.dim + d] * (scales[d] * kProbabilityUnit);
    }
  }

  static void run(const IntAttentionArgs& args, std::int64_t kv_head, Range rows,
                  std::byte* scratch) noexcept {
    Tile tile;
    tile.args = &args;
    tile.kv_head = kv_head;
    tile.group = args.heads / args.kv_heads;
    tile.dim = (args.head_dim + 15) / 16 * 16;
    const std::int64_t queries =
        tile.group < kIntAttentionTileRows ? kIntAttentionTileRows / tile.group : 1;
    const std::int64_t most = queries * tile.group;
    tile.values = reinterpret_cast<float*>(scratch);
    tile.acc = tile.values + kTokens * tile.dim;
    tile.keys = reinterpret_cast<std::int16_t*>(tile.acc + most * tile.dim);
    tile.queries = tile.keys + tile.dim * kTokens;
    tile.scores = reinterpret_cast<std::int32_t*>(tile.queries + most * tile.dim);
    for (std::int64_t r = rows.begin; r < rows.end; r += queries) {
      const std::int64_t count = rows.end - r < queries ? rows.end - r : queries;
      tile.first_query = r;
      tile.rows = count * tile.group;
      tile.columns = (args.first_position + r + count + kTokens - 1) / kTokens * kTokens;
      run_tile(tile);
    }
  }
};

}  // namespace
}  // namespace tandem
