// Matrix products: the reference against plain double arithmetic, all other tables bit-exact
// against the reference.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>

#include "kernels/cases.h"

namespace tandem {
namespace {

using testing::Packed;
using testing::Random;

constexpr std::int64_t kSpare = 3;  // y is wider than n; what is beyond must stay as it was
constexpr float kUntouched = -12345.0F;

// What `run(range, first row, rows, output)` computes for all rows at once, over two ranges of
// panels.
template <typename Run>
std::vector<float> output_of(const PanelLayout& layout, std::int64_t rows, const float* bias,
                             const Run& run) {
  const std::int64_t stride = layout.n + kSpare;
  std::vector<float> y(static_cast<std::size_t>(rows * stride), kUntouched);
  const std::int64_t middle = layout.panels() / 2;
  run(Range{0, middle}, 0, rows, LinearOutput{y.data(), stride, bias});
  run(Range{middle, layout.panels()}, 0, rows, LinearOutput{y.data(), stride, bias});
  return y;
}

// The same one row at a time, and cut in two: the rows of a batch must not see each other.
template <typename Run>
void expect_batch_invariant(const PanelLayout& layout, std::int64_t rows, const float* bias,
                            const Run& run, const std::vector<float>& whole) {
  const std::int64_t stride = layout.n + kSpare;
  std::vector<float> y(whole.size(), kUntouched);
  const Range all{0, layout.panels()};
  for (std::int64_t r = 0; r < rows; ++r)
    run(all, r, 1, LinearOutput{y.data() + r * stride, stride, bias});
  EXPECT_EQ(y, whole) << "one row at a time";
  const std::int64_t cut = rows / 3 + 1;
  if (cut >= rows) return;
  std::fill(y.begin(), y.end(), kUntouched);
  run(all, 0, cut, LinearOutput{y.data(), stride, bias});
  run(all, cut, rows - cut, LinearOutput{y.data() + cut * stride, stride, bias});
  EXPECT_EQ(y, whole) << "cut after " << cut << " rows";
}

const std::vector<std::int64_t> kRowCounts = {1,  2,  3,  4,  5,  6,  7,  8,  11, 12,  13,
                                              15, 16, 17, 31, 32, 33, 48, 50, 64, 128, 130};

struct Shape2 {
  std::int64_t n, k;
};

TEST(LinearFloat, EqualsReference) {
  Random random(1);
  for (const auto& [n, k] : {Shape2{64, 64}, {1, 1}, {65, 3}, {130, 77}, {200, 520}, {40, 1100}})
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      const Packed weight(testing::float_weight(random, n, k, dtype));
      const std::vector<float> bias = testing::normal_floats(random, n);
      for (const std::int64_t rows : {1, 2, 3, 4, 5, 6, 7, 13, 128}) {
        const std::int64_t x_stride = k + 5;
        const std::vector<float> x = testing::normal_floats(random, rows * x_stride);
        const float* b = rows % 2 ? bias.data() : nullptr;
        const auto with = [&](const Kernels& table) {
          return [&](Range range, std::int64_t first, std::int64_t count, const LinearOutput& y) {
            table.linear_float(weight.layout, weight.panels.data(), range,
                               x.data() + first * x_stride, x_stride, count, y);
          };
        };
        const auto expected = output_of(weight.layout, rows, b, with(testing::reference()));
        for (const Kernels* table : testing::fast_tables()) {
          SCOPED_TRACE(std::string(table->name) + ": " + std::to_string(n) + " x " +
                       std::to_string(k) + ", rows " + std::to_string(rows));
          EXPECT_EQ(output_of(weight.layout, rows, b, with(*table)), expected);
          expect_batch_invariant(weight.layout, rows, b, with(*table), expected);
        }
      }
    }
}

// Against sums in double: each product to a few units of 2^-24, and up to five additions in float32
// for each.
TEST(LinearFloat, IsAsExactWhereItIsFast) {
  Random random(4);
  for (const auto& [n, k] :
       {Shape2{64, 64}, {1, 1}, {65, 3}, {130, 77}, {200, 520}, {40, 1100}, {1100, 31}})
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      const Weight stored = testing::float_weight(random, n, k, dtype);
      const Packed weight(stored);
      const std::vector<float> w = dequantize_rows(stored, 0, n);
      const std::vector<float> bias = testing::normal_floats(random, n);
      for (const std::int64_t rows : {1, 15, 33, 130}) {
        const std::int64_t x_stride = k + 5;
        const std::vector<float> x = testing::normal_floats(random, rows * x_stride);
        const float* b = rows % 2 ? bias.data() : nullptr;
        for (const Kernels* table : testing::fast_tables()) {
          SCOPED_TRACE(
              fmt::format("{}: {} x {} {}, rows {}", table->name, n, k, to_string(dtype), rows));
          const auto run = [&](Range range, std::int64_t first, std::int64_t count,
                               const LinearOutput& y) {
            table->linear_float_fast(weight.layout, weight.panels.data(), range,
                                     x.data() + first * x_stride, x_stride, count, y);
          };
          const std::vector<float> y = output_of(weight.layout, rows, b, run);
          expect_batch_invariant(weight.layout, rows, b, run, y);
          double worst = 0;
          for (std::int64_t r = 0; r < rows; ++r)
            for (std::int64_t c = 0; c < n; ++c) {
              double sum = b ? double{b[c]} : 0.0, magnitude = std::abs(sum);
              for (std::int64_t i = 0; i < k; ++i) {
                const double product = double{x[static_cast<std::size_t>(r * x_stride + i)]} *
                                       w[static_cast<std::size_t>(c * k + i)];
                sum += product;
                magnitude += std::abs(product);
              }
              const float got = y[static_cast<std::size_t>(r * (n + kSpare) + c)];
              worst = std::max(worst, std::abs(got - sum) / magnitude);
            }
          EXPECT_LE(worst, 0x1p-24 * (4 + std::sqrt(5.0 * static_cast<double>(k))));
        }
      }
    }
}

TEST(LinearFloat, IsNotFiniteWhereItsOperandsAreNot) {
  Random random(5);
  const Packed weight(testing::float_weight(random, 64, 40, DType::kF32));
  std::vector<float> x = testing::normal_floats(random, 3 * 40);
  x[7] = std::numeric_limits<float>::infinity();
  x[85] = std::numeric_limits<float>::quiet_NaN();
  for (const Kernels* table : testing::fast_tables()) {
    std::vector<float> y(std::size_t{3} * 64);
    table->linear_float_fast(weight.layout, weight.panels.data(), weight.all(), x.data(), 40, 3,
                             {.y = y.data(), .stride = 64});
    for (std::size_t i = 0; i < y.size(); ++i)
      EXPECT_EQ(std::isfinite(y[i]), i / 64 == 1) << table->name << " " << i;
  }
}

TEST(LinearInt8, EqualsReference) {
  Random random(2);
  for (const bool saturated : {false, true})
    for (const auto& [n, k] :
         {Shape2{64, 64}, {1, 1}, {65, 3}, {130, 70}, {200, 512}, {96, 1000}, {64, 4096}}) {
      const Packed weight(testing::int8_weight(random, n, k, saturated, n == 200));
      const std::vector<float> bias = testing::normal_floats(random, n);
      for (const std::int64_t rows : kRowCounts) {
        if (k > 1000 && rows > 17) continue;
        const testing::Int8Activations x(random, rows, k, saturated);
        const float* b = rows % 2 ? bias.data() : nullptr;
        const auto with = [&](const Kernels& table) {
          return [&](Range range, std::int64_t first, std::int64_t count, const LinearOutput& y) {
            table.linear_int8(weight.layout, weight.panels.data(), range, x.rows_from(first), count,
                              y);
          };
        };
        const auto sums_of = [&](const Kernels& table) {
          std::vector<std::int32_t> sums(static_cast<std::size_t>(rows * (n + kSpare)), 7);
          table.linear_int8_sums(weight.layout, weight.panels.data(), weight.all(), x.rows_from(0),
                                 rows, sums.data(), n + kSpare);
          return sums;
        };
        const auto expected = output_of(weight.layout, rows, b, with(testing::reference()));
        const auto sums = sums_of(testing::reference());
        for (const Kernels* table : testing::fast_tables()) {
          SCOPED_TRACE(std::string(table->name) + ": " + std::to_string(n) + " x " +
                       std::to_string(k) + ", rows " + std::to_string(rows));
          EXPECT_EQ(sums_of(*table), sums);
          EXPECT_EQ(output_of(weight.layout, rows, b, with(*table)), expected);
          expect_batch_invariant(weight.layout, rows, b, with(*table), expected);
        }
      }
    }
}

TEST(LinearInt4, EqualsReference) {
  Random random(3);
  for (const bool saturated : {false, true})
    for (const std::int64_t group : {32, 64, 128})
      for (const auto& [n, groups] : {Shape2{64, 1}, {1, 2}, {65, 3}, {130, 5}, {200, 4}}) {
        const std::int64_t k = group * groups;
        const Packed weight(testing::int4_weight(random, n, k, group, saturated));
        const std::vector<float> bias = testing::normal_floats(random, n);
        for (const std::int64_t rows : kRowCounts) {
          const testing::GroupActivations x(random, rows, k, group, saturated);
          const float* b = rows % 2 ? bias.data() : nullptr;
          const auto with = [&](const Kernels& table) {
            return [&](Range range, std::int64_t first, std::int64_t count, const LinearOutput& y) {
              table.linear_int4(weight.layout, weight.panels.data(), range, x.rows_from(first),
                                count, y);
            };
          };
          const auto expected = output_of(weight.layout, rows, b, with(testing::reference()));
          for (const Kernels* table : testing::fast_tables()) {
            SCOPED_TRACE(std::string(table->name) + ": " + std::to_string(n) + " x " +
                         std::to_string(k) + " g" + std::to_string(group) + ", rows " +
                         std::to_string(rows));
            EXPECT_EQ(output_of(weight.layout, rows, b, with(*table)), expected);
            expect_batch_invariant(weight.layout, rows, b, with(*table), expected);
          }
        }
      }
}

// dequantize_rows() and double sums know nothing of panels.
std::vector<double> plain_product(const Weight& weight, const std::vector<float>& x,
                                  std::int64_t rows) {
  const std::int64_t n = output_channels(weight);
  const std::int64_t k = input_channels(weight);
  const std::vector<float> w = dequantize_rows(weight, 0, n);
  std::vector<double> y;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < n; ++c) {
      double sum = 0;
      for (std::int64_t i = 0; i < k; ++i)
        sum += static_cast<double>(x[static_cast<std::size_t>(r * k + i)]) *
               w[static_cast<std::size_t>(c * k + i)];
      y.push_back(sum);
    }
  return y;
}

TEST(LinearReference, EqualsPlainProducts) {
  Random random(4);
  const std::int64_t n = 70, k = 192, rows = 5;
  const Weight float_weight = testing::float_weight(random, n, k, DType::kBF16);
  const Weight int8_weight = testing::int8_weight(random, n, k);
  const Weight int4_weight = testing::int4_weight(random, n, k, 64);
  std::vector<float> y(static_cast<std::size_t>(rows * n));
  const LinearOutput out{y.data(), n, nullptr};
  const auto expect_near = [&](const std::vector<double>& expected, double tolerance) {
    for (std::size_t i = 0; i < y.size(); ++i) EXPECT_NEAR(y[i], expected[i], tolerance) << i;
  };
  const auto& ref = testing::reference();
  {
    const Packed packed(float_weight);
    const std::vector<float> x = testing::normal_floats(random, rows * k);
    ref.linear_float(packed.layout, packed.panels.data(), packed.all(), x.data(), k, rows, out);
    expect_near(plain_product(float_weight, x, rows), 1e-4);
  }
  {
    const Packed packed(int8_weight);
    const testing::Int8Activations codes(random, rows, k);
    std::vector<float> x;
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t i = 0; i < k; ++i)
        x.push_back(codes.rows_from(r).scale * codes.codes[r * codes.stride + i]);
    ref.linear_int8(packed.layout, packed.panels.data(), packed.all(), codes.rows_from(0), rows,
                    out);
    expect_near(plain_product(int8_weight, x, rows), 0.02);  // values up to about 2e4
  }
  {
    const Packed packed(int4_weight);
    const testing::GroupActivations codes(random, rows, k, 64);
    std::vector<float> x;
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t i = 0; i < k; ++i)
        x.push_back(codes.scales[static_cast<std::size_t>(r * codes.groups + i / 64)] *
                    codes.codes[r * codes.stride + i]);
    ref.linear_int4(packed.layout, packed.panels.data(), packed.all(), codes.rows_from(0), rows,
                    out);
    expect_near(plain_product(int4_weight, x, rows), 0.005);
  }
}

TEST(LinearReference, TinyCasesByHand) {
  const auto& ref = testing::reference();
  float y[2] = {};
  {
    const Packed packed(FloatWeight{Tensor::from_floats(std::vector<float>{1, 2, 3, 4}, {2, 2})});
    const float x[2] = {10, 100};
    const float bias[2] = {0.5F, -0.5F};
    ref.linear_float(packed.layout, packed.panels.data(), packed.all(), x, 2, 1, {y, 2, bias});
    EXPECT_EQ(y[0], 210.5F);
    EXPECT_EQ(y[1], 429.5F);
  }
  {
    Random random(5);
    ChannelCodes weight = testing::int8_weight(random, 1, 3);
    std::byte* data = nullptr;
    weight.codes = Tensor::allocate(DType::kI8, {1, 3}, &data);
    for (const int code : {-127, 0, 127}) *data++ = static_cast<std::byte>(code);
    weight.scales = Tensor::from_floats(std::vector<float>{0.5F}, {1});
    const Packed packed(weight);
    alignas(64) std::int8_t codes[64] = {-128, 55, 2};
    const std::int32_t sum = -71;
    ref.linear_int8(packed.layout, packed.panels.data(), packed.all(), {codes, 64, &sum, 0.25F}, 1,
                    {y, 1, nullptr});
    EXPECT_EQ(y[0], (127 * 128 + 2 * 127) * 0.125F);
  }
  {
    GroupCodes weight{.n = 1, .k = 32, .group = 32};
    std::byte* data = nullptr;
    weight.codes = Tensor::allocate(DType::kU8, {1, 16}, &data);
    for (int i = 0; i < 16; ++i) data[i] = std::byte{0x88};
    data[0] = std::byte{0xF1};  // k = 0 has code 1, k = 1 has code 15
    weight.scales = Tensor::allocate(DType::kF16, {1, 1}, &data);
    const std::uint16_t half = float_to_f16(0.5F);
    std::memcpy(data, &half, 2);
    weight.zero_points = Tensor::allocate(DType::kU8, {1, 1}, &data);
    *data = std::byte{8};
    const Packed packed(weight);
    alignas(64) std::int8_t codes[64] = {3, 100};
    codes[31] = 17;
    const std::int32_t sum = 120;
    const float scale = 2;
    ref.linear_int4(packed.layout, packed.panels.data(), packed.all(), {codes, 64, &scale, &sum}, 1,
                    {y, 1, nullptr});
    EXPECT_EQ(y[0], 3 * -7 + 100 * 7);
  }
}

TEST(Tables, PeakLoopsCountTheirOperations) {
  std::int32_t sink = 1;
  for (const Kernels* table : available_kernels(detect_cpu_features())) {
    const std::int64_t once = table->int8_peak_loop(1, &sink);
    EXPECT_GE(once, 2 * 10) << table->name;
    EXPECT_EQ(table->int8_peak_loop(10, &sink), 10 * once) << table->name;
  }
}

TEST(Tables, SlowestFirstAndSelectedLast) {
  EXPECT_EQ(select_kernels({}).name, "ref");
  CpuFeatures broken;
  broken.avx512_vnni = true;  // without what it is built on
  broken.amx = true;
  EXPECT_EQ(select_kernels(broken).name, "ref");
  const CpuFeatures features = detect_cpu_features();
  const auto tables = available_kernels(features);
  EXPECT_EQ(tables.front()->name, "ref");
  EXPECT_EQ(tables.back(), &select_kernels(features));
}

}  // namespace
}  // namespace tandem
