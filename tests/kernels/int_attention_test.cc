// Attention in integers: every table against a reference that computes the whole of a fixed context
// with its mask, as hardware would: cached tokens in the first columns, new ones in the last, whatever
// in between.
#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/cases.h"

namespace tandem {
namespace {

using testing::Random;

struct Case {
  std::int64_t heads, kv_heads, head_dim;
  std::int64_t past, rows;
  std::int64_t window = 0;
  // -1: a list; else the seed of a tree.
  int tree = -1;
  // Scores that lie far apart, whose softmax has one column; or close together.
  int loudness = 300;
};

// int8 keys and values of all tokens, [tokens, kv_heads * head_dim], in blocks; stale bytes elsewhere.
struct Tokens {
  Tokens(Random& random, const Case& c)
      : width(c.kv_heads * c.head_dim), k(codes(random, c)), v(codes(random, c)) {
    const std::int64_t tokens = c.past + c.rows;
    for (std::int64_t t = 0; t < tokens; t += 64)
      storage.emplace_back(kv_block_bytes(c.kv_heads, c.head_dim, DType::kI8), std::byte{0x81});
    for (std::int64_t t = 0; t < tokens; ++t) {
      auto* block = reinterpret_cast<std::int8_t*>(storage[index(t / 64)].data());
      for (std::int64_t i = 0; i < width; ++i) {
        block[i * 64 + t % 64] = k[index(t * width + i)];
        block[64 * width + (i / c.head_dim * 64 + t % 64) * c.head_dim + i % c.head_dim] =
            v[index(t * width + i)];
      }
    }
    for (auto& block : storage) blocks.push_back(block.data());
    for (std::int64_t i = 0; i < c.rows * c.heads * c.head_dim; ++i)
      q.push_back(static_cast<std::int16_t>(testing::uniform(random, -c.loudness, c.loudness)));
    for (std::int64_t i = 0; i < width; ++i)
      v_scales.push_back(0.001F * static_cast<float>(testing::uniform(random, 1, 90)));
    for (std::int64_t r = 0; r < c.rows; ++r)
      parents.push_back(c.tree < 0 ? static_cast<int>(r) - 1
                                   : testing::uniform(random, -1, static_cast<int>(r) - 1));
  }
  static std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }
  static std::vector<std::int8_t> codes(Random& random, const Case& c) {
    std::vector<std::int8_t> values;
    for (std::int64_t i = 0; i < (c.past + c.rows) * c.kv_heads * c.head_dim; ++i)
      values.push_back(static_cast<std::int8_t>(testing::uniform(random, -127, 127)));
    return values;
  }
  std::int64_t depth(std::int64_t row) const {
    std::int64_t depth = 0;
    for (int p = parents[index(row)]; p >= 0; p = parents[index(p)]) ++depth;
    return depth;
  }
  bool continues(std::int64_t row, std::int64_t ancestor) const {
    std::int64_t at = row;
    while (at > ancestor) at = parents[index(at)];
    return at == ancestor;
  }

  std::int64_t width;
  std::vector<std::int8_t> k, v;
  std::vector<testing::Aligned<std::byte>> storage;
  std::vector<const std::byte*> blocks;
  std::vector<std::int16_t> q;
  std::vector<float> v_scales;
  std::vector<int> parents;
};

constexpr FixedMultiplier kOctaves{.factor = 1'234'567'890, .shift = 36};

// 2^-t in units of 2^-16, for t in units of 2^-15: the polynomial of the contract, rounding half up.
std::int64_t power(std::int64_t t) {
  if (t >= 20 * 32768) return 0;
  const std::int64_t f = t % 32768;
  std::int64_t y = 480;
  for (const std::int64_t c : {-3548, 15726, -45426, 65536})
    y = c + static_cast<std::int64_t>(std::floor(static_cast<double>(y * f) / 32768 + 0.5));
  return std::min<std::int64_t>(
      static_cast<std::int64_t>(
          std::floor(std::ldexp(static_cast<double>(y), -static_cast<int>(t / 32768)) + 0.5)),
      65535);
}

// [rows, heads * head_dim]: all columns of a context, masked by what the mask [rows, context] shows.
std::vector<float> whole_context(const Case& c, const Tokens& tokens, std::int64_t context) {
  const auto index = Tokens::index;
  Random random(99);
  std::vector<std::int8_t> keys, values;
  for (std::int64_t i = 0; i < context * tokens.width; ++i) {
    keys.push_back(static_cast<std::int8_t>(testing::uniform(random, -128, 127)));
    values.push_back(static_cast<std::int8_t>(testing::uniform(random, -128, 127)));
  }
  std::vector<std::uint16_t> mask(index(c.rows * context), 0);
  const std::int64_t behind = context - c.rows;
  for (std::int64_t t = 0; t < c.past + c.rows; ++t) {
    const std::int64_t column = t < c.past ? t : behind + t - c.past;
    for (std::int64_t i = 0; i < tokens.width; ++i) {
      keys[index(column * tokens.width + i)] = tokens.k[index(t * tokens.width + i)];
      values[index(column * tokens.width + i)] = tokens.v[index(t * tokens.width + i)];
    }
    for (std::int64_t r = 0; r < c.rows; ++r) {
      const std::int64_t own = c.past + tokens.depth(r);
      const bool sees = t < c.past || (t - c.past <= r && tokens.continues(r, t - c.past));
      const std::int64_t at = t < c.past ? t : c.past + tokens.depth(t - c.past);
      if (sees && (c.window == 0 || own - at < c.window)) mask[index(r * context + column)] = 65535;
    }
  }
  std::vector<float> out;
  const std::int64_t group = c.heads / c.kv_heads;
  for (std::int64_t r = 0; r < c.rows; ++r)
    for (std::int64_t h = 0; h < c.heads; ++h) {
      const std::int64_t first = h / group * c.head_dim;
      std::vector<std::int64_t> scores(index(context), 0);
      std::int64_t largest = INT64_MIN;
      for (std::int64_t column = 0; column < context; ++column) {
        for (std::int64_t d = 0; d < c.head_dim; ++d)
          scores[index(column)] +=
              std::int64_t{tokens.q[index((r * c.heads + h) * c.head_dim + d)]} *
              keys[index(column * tokens.width + first + d)];
        if (mask[index(r * context + column)] > 0)
          largest = std::max(largest, scores[index(column)]);
      }
      std::int64_t total = 0;
      for (std::int64_t column = 0; column < context; ++column) {
        std::int64_t& score = scores[index(column)];
        const bool shown = mask[index(r * context + column)] > 0;
        score = shown ? power((largest - score) * kOctaves.factor >> kOctaves.shift) : 0;
        total += score;
      }
      const std::int64_t reciprocal = (std::int64_t{1} << 47) / total;
      for (std::int64_t d = 0; d < c.head_dim; ++d) {
        std::int64_t sum = 0;
        for (std::int64_t column = 0; column < context; ++column) {
          const std::int64_t p = std::min<std::int64_t>(
              (scores[index(column)] * reciprocal + (std::int64_t{1} << 30)) >> 31, 65535);
          sum += p * values[index(column * tokens.width + first + d)];
        }
        out.push_back(static_cast<float>(sum) *
                      (tokens.v_scales[index(first + d)] * (1.0F / 65536)));
      }
    }
  return out;
}

std::vector<float> run(const Kernels& table, const Case& c, const Tokens& tokens,
                       std::int64_t rows_per_call) {
  std::vector<float> out(tokens.q.size(), NAN);
  std::vector<std::int64_t> first;
  const std::int64_t words = (c.rows + 63) / 64;
  std::vector<std::uint64_t> visible(Tokens::index(c.rows * words), 0);
  for (std::int64_t r = 0; r < c.rows; ++r) {
    const std::int64_t depth = tokens.depth(r);
    first.push_back(c.window > 0 ? std::max<std::int64_t>(0, c.past + depth - c.window + 1) : 0);
    for (std::int64_t other = 0; other <= r; ++other)
      if (tokens.continues(r, other) && (c.window == 0 || depth - tokens.depth(other) < c.window))
        visible[Tokens::index(r * words + other / 64)] |= std::uint64_t{1} << (other % 64);
  }
  IntAttentionArgs args;
  args.q = tokens.q.data();
  args.out = out.data();
  args.q_stride = args.out_stride = c.heads * c.head_dim;
  args.first_position = c.past;
  args.heads = c.heads;
  args.kv_heads = c.kv_heads;
  args.head_dim = c.head_dim;
  args.mask.first = first.data();
  if (c.tree >= 0) {
    args.mask.visible = visible.data();
    args.mask.words = words;
  }
  args.octaves = kOctaves;
  args.v_scales = tokens.v_scales.data();
  args.blocks = tokens.blocks.data();
  const std::int64_t bytes =
      int_attention_scratch_bytes(c.heads, c.kv_heads, c.head_dim, c.past + c.rows);
  testing::Aligned<std::byte> scratch(bytes + 64, std::byte{0x5A});
  for (std::int64_t h = 0; h < c.kv_heads; ++h)
    for (std::int64_t r = 0; r < c.rows; r += rows_per_call)
      table.int_attention(args, h, {r, std::min(r + rows_per_call, c.rows)}, scratch.data());
  for (std::int64_t i = bytes; i < bytes + 64; ++i)
    EXPECT_EQ(scratch[i], std::byte{0x5A}) << "scratch overrun";
  return out;
}

class IntAttention : public ::testing::TestWithParam<Case> {};

TEST_P(IntAttention, EqualsTheWholeContextWithItsMask) {
  const Case& c = GetParam();
  Random random(41);
  const Tokens tokens(random, c);
  const std::int64_t all = c.past + c.rows;
  const auto expected = whole_context(c, tokens, all);
  EXPECT_EQ(whole_context(c, tokens, all + 150), expected);
  for (const Kernels* table : available_kernels(detect_cpu_features()))
    for (const std::int64_t rows : {1, 5, 16, 200})
      EXPECT_TRUE(run(*table, c, tokens, rows) == expected) << table->name << " by " << rows;
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, IntAttention,
    ::testing::Values(Case{4, 4, 64, 0, 1}, Case{4, 1, 64, 0, 70}, Case{8, 2, 64, 63, 3},
                      Case{8, 2, 64, 200, 1}, Case{6, 2, 12, 10, 80}, Case{5, 1, 80, 100, 40},
                      Case{14, 1, 24, 64, 64}, Case{2, 1, 7, 30, 5}, Case{4, 2, 64, 0, 130, 50},
                      Case{4, 2, 32, 190, 20, 64}, Case{3, 3, 16, 127, 66, 1},
                      Case{8, 2, 64, 50, 30, 0, 1}, Case{4, 2, 40, 120, 70, 0, 2},
                      Case{4, 1, 24, 70, 66, 9, 3}, Case{2, 1, 24, 0, 12, 0, 4},
                      // Queries that use all of int16; scores that hardly differ.
                      Case{2, 1, 512, 60, 10, 0, -1, 32767}, Case{2, 1, 64, 300, 3, 0, -1, 1}));

// The table of powers that the softmax is made of.
TEST(IntAttention, HasPowersWithinTwoUnits) {
  for (std::int64_t t = 0; t < 21 * 32768; t += 7) {
    const double exact = std::exp2(-static_cast<double>(t) / 32768) * 65536;
    EXPECT_NEAR(static_cast<double>(power(t)), std::min(exact, 65535.0), 2.3) << t;
  }
}

}  // namespace
}  // namespace tandem
