// KV blocks and attention: every table against plain double arithmetic over all tokens at once.
#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/cases.h"

namespace tandem {
namespace {

using testing::Random;

struct Case {
  std::int64_t heads, kv_heads, head_dim;
  std::int64_t first_position, rows;
  std::int64_t window = 0;
  float softcap = 0;
  DType kv_dtype = DType::kF16;
};

// A sequence of K and V as it was given, and in blocks. Slots beyond the sequence hold NaN: nothing
// may read them.
struct Sequence {
  Sequence(Random& random, const Case& c, const Kernels& table)
      : k_scales(channel_scales(random, c)),
        v_scales(channel_scales(random, c)),
        k(testing::normal_floats(random, (c.first_position + c.rows) * c.kv_heads * c.head_dim)),
        v(testing::normal_floats(random, (c.first_position + c.rows) * c.kv_heads * c.head_dim)) {
    const std::int64_t tokens = c.first_position + c.rows;
    const std::int64_t width = c.kv_heads * c.head_dim;
    for (std::int64_t t = 0; t < tokens; t += 64)
      storage.emplace_back(kv_block_bytes(c.kv_heads, c.head_dim, c.kv_dtype), std::byte{0xFF});
    for (std::int64_t t = 0; t < tokens; ++t)
      table.store_kv(k.data() + t * width, v.data() + t * width, c.kv_heads, c.head_dim, t % 64,
                     storage[static_cast<std::size_t>(t / 64)].data(), c.kv_dtype, scales(c));
    for (auto& block : storage) blocks.push_back(block.data());
  }

  static std::vector<float> channel_scales(Random& random, const Case& c) {
    std::vector<float> scales = testing::normal_floats(random, c.kv_heads * c.head_dim);
    // The largest of a few thousand normal numbers is about 3.5: some are clamped.
    for (float& scale : scales) scale = (std::fabs(scale) + 0.5F) * 0.02F;
    return scales;
  }
  KvScales scales(const Case& c) const {
    if (c.kv_dtype != DType::kI8) return {};
    return {k_scales.data(), v_scales.data()};
  }

  std::vector<float> k_scales, v_scales;
  std::vector<float> k, v;
  std::vector<testing::Aligned<std::byte>> storage;
  std::vector<const std::byte*> blocks;
};

AttentionArgs arguments(const Case& c, const Sequence& sequence, const float* q, float* out) {
  AttentionArgs args;
  args.q = q;
  args.out = out;
  args.q_stride = args.out_stride = c.heads * c.head_dim + 4;
  args.first_position = c.first_position;
  args.heads = c.heads;
  args.kv_heads = c.kv_heads;
  args.head_dim = c.head_dim;
  args.scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
  args.window = c.window;
  args.softcap = c.softcap;
  args.blocks = sequence.blocks.data();
  args.kv_dtype = c.kv_dtype;
  args.kv_scales = sequence.scales(c);
  return args;
}

// Keys and values are rounded to float16 or int8 where the cache is; all else is double.
std::vector<double> plain_attention(const Case& c, const Sequence& sequence, const float* q,
                                    std::int64_t stride) {
  std::vector<double> out(static_cast<std::size_t>(c.rows * stride), 0);
  const auto kv = [&](const std::vector<float>& from, std::int64_t t, std::int64_t h,
                      std::int64_t d) -> double {
    const float x = from[static_cast<std::size_t>((t * c.kv_heads + h) * c.head_dim + d)];
    if (c.kv_dtype == DType::kI8) {
      const auto& scales = &from == &sequence.k ? sequence.k_scales : sequence.v_scales;
      const float scale = scales[static_cast<std::size_t>(h * c.head_dim + d)];
      return std::clamp(std::nearbyint(static_cast<double>(x / scale)), -127.0, 127.0) * scale;
    }
    return c.kv_dtype == DType::kF32 ? x : f16_to_float(float_to_f16(x));
  };
  const double scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
  for (std::int64_t r = 0; r < c.rows; ++r)
    for (std::int64_t h = 0; h < c.heads; ++h) {
      const std::int64_t group = h / (c.heads / c.kv_heads);
      const std::int64_t last = c.first_position + r;
      const std::int64_t first = c.window > 0 ? std::max<std::int64_t>(0, last - c.window + 1) : 0;
      std::vector<double> p;
      for (std::int64_t t = first; t <= last; ++t) {
        double s = 0;
        for (std::int64_t d = 0; d < c.head_dim; ++d)
          s += q[r * stride + h * c.head_dim + d] * kv(sequence.k, t, group, d);
        s *= scale;
        if (c.softcap > 0) s = c.softcap * std::tanh(s / c.softcap);
        p.push_back(s);
      }
      const double largest = *std::max_element(p.begin(), p.end());
      double total = 0;
      for (double& s : p) total += s = std::exp(s - largest);
      for (std::int64_t d = 0; d < c.head_dim; ++d) {
        double sum = 0;
        for (std::int64_t t = first; t <= last; ++t)
          sum += p[static_cast<std::size_t>(t - first)] * kv(sequence.v, t, group, d);
        out[static_cast<std::size_t>(r * stride + h * c.head_dim + d)] = sum / total;
      }
    }
  return out;
}

std::vector<float> run(const Kernels& table, const Case& c, const Sequence& sequence,
                       const std::vector<float>& q, std::int64_t rows_per_call) {
  std::vector<float> out(q.size(), 0);
  const AttentionArgs args = arguments(c, sequence, q.data(), out.data());
  const std::int64_t floats = attention_scratch_floats(c.heads, c.kv_heads, c.head_dim);
  testing::Aligned<float> scratch(floats + 16, NAN);
  for (std::int64_t h = 0; h < c.kv_heads; ++h)
    for (std::int64_t r = 0; r < c.rows; r += rows_per_call)
      table.attention(args, h, {r, std::min(r + rows_per_call, c.rows)}, scratch.data());
  for (std::int64_t i = floats; i < floats + 16; ++i)
    EXPECT_TRUE(std::isnan(scratch[i])) << "scratch overrun";
  return out;
}

class AttentionTest : public ::testing::TestWithParam<Case> {};

// Tolerance: sums of up to a few hundred products in float32, and an exponential within 2 units in
// the last place.
TEST_P(AttentionTest, EqualsPlainArithmetic) {
  const Case& c = GetParam();
  for (const Kernels* table : available_kernels(detect_cpu_features())) {
    Random random(41);
    const Sequence sequence(random, c, *table);
    const std::int64_t stride = c.heads * c.head_dim + 4;
    const auto q = testing::normal_floats(random, c.rows * stride);
    const auto expected = plain_attention(c, sequence, q.data(), stride);
    const auto out = run(*table, c, sequence, q, c.rows);
    double worst = 0;
    for (std::size_t i = 0; i < out.size(); ++i)
      worst = std::max(worst, std::isnan(out[i]) ? 1e9 : std::fabs(out[i] - expected[i]));
    EXPECT_LT(worst, 5e-6) << table->name;
  }
}

TEST_P(AttentionTest, RowsDoNotSeeEachOther) {
  const Case& c = GetParam();
  for (const Kernels* table : available_kernels(detect_cpu_features())) {
    Random random(42);
    const Sequence sequence(random, c, *table);
    const auto q = testing::normal_floats(random, c.rows * (c.heads * c.head_dim + 4));
    const auto whole = run(*table, c, sequence, q, c.rows);
    for (const std::int64_t rows : {1, 2, 5, 16})
      EXPECT_EQ(run(*table, c, sequence, q, rows), whole) << table->name << " by " << rows;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, AttentionTest,
    ::testing::Values(
        Case{4, 4, 64, 0, 1}, Case{4, 1, 64, 0, 70}, Case{8, 2, 64, 63, 3}, Case{8, 2, 64, 200, 1},
        Case{6, 2, 12, 10, 80}, Case{5, 1, 80, 100, 40}, Case{6, 3, 96, 5, 130},
        Case{4, 2, 128, 130, 66}, Case{2, 1, 256, 60, 10}, Case{7, 1, 20, 64, 64},
        Case{64, 1, 16, 30, 5}, Case{4, 2, 64, 0, 200, 50}, Case{4, 2, 64, 190, 20, 64},
        Case{3, 3, 64, 127, 66, 1}, Case{4, 2, 64, 70, 60, 0, 5.0F},
        Case{4, 2, 40, 70, 60, 33, 30.0F}, Case{8, 2, 64, 63, 70, 0, 0, DType::kF32},
        Case{6, 2, 12, 10, 80, 9, 0, DType::kF32}, Case{4, 2, 64, 200, 1, 0, 0, DType::kF32},
        Case{8, 2, 64, 63, 70, 0, 0, DType::kI8}, Case{6, 2, 12, 10, 80, 9, 0, DType::kI8},
        Case{5, 1, 80, 100, 40, 0, 5.0F, DType::kI8}, Case{4, 2, 64, 200, 1, 0, 0, DType::kI8},
        Case{2, 1, 256, 60, 10, 0, 0, DType::kI8}));

TEST(StoreKv, WritesOneTokenAndNoOther) {
  Random random(43);
  for (const std::int64_t head_dim : {12, 64, 80, 128}) {
    const std::int64_t kv_heads = 2;
    const auto k = testing::normal_floats(random, kv_heads * head_dim);
    auto v = testing::normal_floats(random, kv_heads * head_dim);
    std::vector<float> k_scales(k.size(), 0.01F), v_scales(v.size(), 0.03F);
    k_scales[3] = 1e-30F;
    for (const DType dtype : {DType::kF16, DType::kF32, DType::kI8}) {
      if (dtype == DType::kI8) {
        v[1] = NAN;
        v[2] = -INFINITY;
        // A tie, which goes to the even code.
        v[5] = 1.5F * v_scales[5];
      }
      const KvScales scales{k_scales.data(), v_scales.data()};
      const std::int64_t bytes = kv_block_bytes(kv_heads, head_dim, dtype);
      testing::Aligned<std::byte> expected(bytes, std::byte{0x55});
      testing::reference().store_kv(k.data(), v.data(), kv_heads, head_dim, 63, expected.data(),
                                    dtype, scales);
      for (const Kernels* table : testing::fast_tables()) {
        testing::Aligned<std::byte> block(bytes, std::byte{0x55});
        table->store_kv(k.data(), v.data(), kv_heads, head_dim, 63, block.data(), dtype, scales);
        EXPECT_EQ(std::memcmp(block.data(), expected.data(), static_cast<std::size_t>(bytes)), 0)
            << table->name << " " << head_dim;
      }
    }
  }
}

}  // namespace
}  // namespace tandem
