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

}  // namespace
}  // namespace tandem
