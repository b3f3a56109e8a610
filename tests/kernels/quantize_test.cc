// Quantizers of activations: rounding, clamping, sums and padding, on every table.
#include <gtest/gtest.h>

#include <cfloat>

#include "kernels/cases.h"

namespace tandem {
namespace {

using testing::Random;

std::vector<const Kernels*> all_tables() { return available_kernels(detect_cpu_features()); }

TEST(QuantizeStatic, RoundsHalfToEvenAndClamps) {
  const std::vector<float> x = {0.25F, 0.75F, -0.25F, -0.75F, 1.25F,
                                1000,  -1000, 63.5F,  -64,    63.25F};
  const std::vector<int> expected = {0, 2, 0, -2, 2, 127, -128, 127, -128, 126};
  for (const Kernels* table : all_tables()) {
    std::vector<std::int8_t> codes(64, 99);
    std::int32_t sum = 0;
    table->quantize_static(x.data(), 10, 0.5F, codes.data(), &sum);
    std::int32_t total = 0;
    for (std::size_t i = 0; i < codes.size(); ++i) {
      EXPECT_EQ(codes[i], i < expected.size() ? expected[i] : 0) << table->name << " " << i;
      total += codes[i];
    }
    EXPECT_EQ(sum, total) << table->name;
  }
}

TEST(QuantizeStatic, EqualsReference) {
  Random random(11);
  for (const std::int64_t k : {1, 3, 15, 16, 17, 63, 64, 65, 100, 2048}) {
    std::vector<float> x = testing::normal_floats(random, k, 3);
    if (k > 20) {
      x[3] = NAN;
      x[7] = INFINITY;
      x[9] = -INFINITY;
    }
    for (const float scale : {0.037F, 1e-3F, 0.0F}) {
      std::vector<std::int8_t> expected(static_cast<std::size_t>(padded_k(k)), 1);
      std::vector<std::int8_t> codes = expected;
      std::int32_t expected_sum = 0;
      testing::reference().quantize_static(x.data(), k, scale, expected.data(), &expected_sum);
      for (const Kernels* table : testing::fast_tables()) {
        std::int32_t sum = 0;
        table->quantize_static(x.data(), k, scale, codes.data(), &sum);
        EXPECT_EQ(codes, expected) << table->name << " k " << k;
        EXPECT_EQ(sum, expected_sum) << table->name << " k " << k;
      }
    }
  }
}

TEST(QuantizeGroups, KeepsValuesWithinHalfAStep) {
  Random random(12);
  const std::int64_t k = 512;
  const std::vector<float> x = testing::normal_floats(random, k, 5);
  for (const Kernels* table : all_tables())
    for (const std::int64_t group : {32, 64, 128}) {
      std::vector<std::int8_t> codes(k);
      std::vector<float> scales(static_cast<std::size_t>(k / group));
      std::vector<std::int32_t> sums(scales.size());
      table->quantize_groups(x.data(), k, group, codes.data(), scales.data(), sums.data());
      std::vector<std::int32_t> totals(scales.size());
      for (std::int64_t i = 0; i < k; ++i) {
        const auto g = static_cast<std::size_t>(i / group);
        const auto at = static_cast<std::size_t>(i);
        EXPECT_NEAR(codes[at] * scales[g], x[at], scales[g] * 0.50001F);
        totals[g] += codes[at];
      }
      EXPECT_EQ(sums, totals);
    }
}

TEST(QuantizeGroups, EqualsReference) {
  Random random(13);
  for (const std::int64_t group : {32, 64, 128}) {
    const std::int64_t k = 6 * group;
    std::vector<float> x = testing::normal_floats(random, k, 3);
    const auto fill = [&](std::int64_t g, auto value) {
      for (std::int64_t i = 0; i < group; ++i)
        x[static_cast<std::size_t>(g * group + i)] = value(i);
    };
    fill(1, [](std::int64_t) { return 0.0F; });
    fill(2, [](std::int64_t i) { return i % 2 ? 1e-42F : -FLT_MIN; });  // no finite inverse
    fill(3, [](std::int64_t i) { return i == 5 ? NAN : static_cast<float>(i); });
    fill(4, [](std::int64_t i) { return i == 5 ? INFINITY : static_cast<float>(i); });
    const auto run = [&](const Kernels& table) {
      std::vector<std::int8_t> codes(static_cast<std::size_t>(k) + 1, 77);
      std::vector<float> scales(6);
      std::vector<std::int32_t> sums(6);
      table.quantize_groups(x.data(), k, group, codes.data(), scales.data(), sums.data());
      EXPECT_EQ(codes.back(), 77) << "written beyond k";
      return std::tuple(codes, scales, sums);
    };
    const auto expected = run(testing::reference());
    EXPECT_EQ(std::get<1>(expected)[1], 0);
    EXPECT_EQ(std::get<1>(expected)[2], 0);
    for (const Kernels* table : testing::fast_tables())
      EXPECT_EQ(run(*table), expected) << table->name << " group " << group;
  }
}

// Codes, scale and sum of a row, with what lies behind its padding.
auto run_dynamic(const Kernels& table, const std::vector<float>& x) {
  const auto k = static_cast<std::int64_t>(x.size());
  std::vector<std::int8_t> codes(static_cast<std::size_t>(padded_k(k)) + 1, 77);
  float scale = -1;
  std::int32_t sum = -1;
  table.quantize_dynamic(x.data(), k, codes.data(), &scale, &sum);
  EXPECT_EQ(codes.back(), 77) << "written beyond the padding";
  return std::tuple(codes, scale, sum);
}

TEST(QuantizeDynamic, FollowsItsFormula) {
  Random random(14);
  for (const Kernels* table : all_tables())
    for (const std::int64_t k : {1, 2, 7, 8, 9, 15, 16, 17, 31, 63, 64, 65, 100, 2047, 2048}) {
      SCOPED_TRACE(std::string(table->name) + " k " + std::to_string(k));
      std::vector<float> x = testing::normal_floats(random, k, 4);
      x.back() = -50;  // the largest is the last
      const auto [codes, scale, sum] = run_dynamic(*table, x);
      EXPECT_EQ(scale, 50.0F / 127.0F);
      const float inverse = 1.0F / scale;
      std::int32_t total = 0;
      for (std::size_t i = 0; i + 1 < codes.size(); ++i) {
        const float expected = i < x.size() ? std::nearbyint(x[i] * inverse) : 0.0F;
        EXPECT_EQ(codes[i], expected) << i;
        total += codes[i];
      }
      EXPECT_EQ(sum, total);
    }
}

TEST(QuantizeDynamic, IsOneGroupOfTheWholeRow) {
  Random random(15);
  for (const Kernels* table : all_tables())
    for (const std::int64_t k : {32, 64, 128, 1024}) {
      const std::vector<float> x = testing::normal_floats(random, k, 3);
      const auto [codes, scale, sum] = run_dynamic(*table, x);
      std::vector<std::int8_t> group_codes(static_cast<std::size_t>(k));
      float group_scale = 0;
      std::int32_t group_sum = 0;
      table->quantize_groups(x.data(), k, k, group_codes.data(), &group_scale, &group_sum);
      EXPECT_TRUE(std::equal(group_codes.begin(), group_codes.end(), codes.begin()));
      EXPECT_EQ(scale, group_scale);
      EXPECT_EQ(sum, group_sum);
    }
}

TEST(QuantizeDynamic, EqualsReferenceForAwkwardRows) {
  Random random(16);
  for (const std::int64_t k : {1, 5, 17, 64, 130}) {
    std::vector<std::vector<float>> rows(6, testing::normal_floats(random, k));
    rows[1].assign(rows[1].size(), 0.0F);
    rows[2].assign(rows[2].size(), -FLT_MIN);  // no finite inverse
    rows[3].back() = NAN;
    rows[4].back() = INFINITY;
    rows[5].assign(rows[5].size(), NAN);
    for (const std::vector<float>& x : rows) {
      const auto expected = run_dynamic(testing::reference(), x);
      for (const Kernels* table : testing::fast_tables())
        EXPECT_EQ(run_dynamic(*table, x), expected) << table->name << " k " << k;
    }
    EXPECT_EQ(std::get<1>(run_dynamic(testing::reference(), rows[1])), 0);
    EXPECT_EQ(std::get<1>(run_dynamic(testing::reference(), rows[2])), 0);
  }
}

}  // namespace
}  // namespace tandem
