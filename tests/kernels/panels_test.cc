// The layout of packed weights, byte by byte where panels.h states it.
#include "kernels/panels.h"

#include <gtest/gtest.h>

#include "kernels/cases.h"

namespace tandem {
namespace {

using testing::Packed;
using testing::Random;

int byte_at(const Packed& packed, std::int64_t offset) {
  return static_cast<int>(packed.panels[offset]);
}

TEST(Panels, SizesAreWholeLines) {
  for (const std::int64_t k : {1, 3, 64, 65, 77}) {
    EXPECT_EQ((PanelLayout{PanelKind::kF32, 65, k, 0}.panel_bytes()), k * 256);
    EXPECT_EQ((PanelLayout{PanelKind::kBF16, 65, k, 0}.panel_bytes()), k * 128);
    EXPECT_EQ((PanelLayout{PanelKind::kInt8, 65, k, 0}.panel_bytes()), padded_k(k) * 64 + 256);
  }
  const PanelLayout int4{PanelKind::kInt4, 65, 256, 128};
  EXPECT_EQ(int4.panels(), 2);
  EXPECT_EQ(int4.panel_bytes(), 2 * (128 * 32 + 192));
  EXPECT_EQ(int4_code_bytes(64), 64 / 2 * 64);
  EXPECT_EQ(int4_group_bytes(64), 64 / 2 * 64 + 64 * 2 + 64);
  EXPECT_EQ(int8_code_bytes(77), 128 * 64);
  EXPECT_EQ(int4.bytes(), 2 * int4.panel_bytes());
}

TEST(Panels, FloatsAreTransposed) {
  Random random(21);
  const FloatWeight weight = testing::float_weight(random, 70, 37, DType::kF32);
  const Packed packed(weight);
  EXPECT_EQ(packed.layout.kind, PanelKind::kF32);
  const auto values = weight.rows->stored()->as<float>();
  for (std::int64_t c = 0; c < 128; ++c)
    for (std::int64_t i = 0; i < 37; ++i) {
      float packed_value = 0;
      std::memcpy(
          &packed_value,
          packed.panels.data() + c / 64 * packed.layout.panel_bytes() + (i * 64 + c % 64) * 4, 4);
      EXPECT_EQ(packed_value, c < 70 ? values[static_cast<std::size_t>(c * 37 + i)] : 0);
    }
}

TEST(Panels, Int8CodesAreUnsignedInFours) {
  Random random(22);
  const ChannelCodes weight = testing::int8_weight(random, 70, 37);
  const Packed packed(weight);
  const auto codes = weight.codes.as<std::int8_t>();
  for (std::int64_t c = 0; c < 128; ++c) {
    const std::int64_t panel = c / 64 * packed.layout.panel_bytes();
    for (std::int64_t i = 0; i < 64; ++i) {
      const int expected =
          c < 70 && i < 37 ? codes[static_cast<std::size_t>(c * 37 + i)] + 128 : 128;
      EXPECT_EQ(byte_at(packed, panel + i / 4 * 256 + c % 64 * 4 + i % 4), expected);
    }
    float scale = -1;
    std::memcpy(&scale, packed.panels.data() + panel + 64 * 64 + c % 64 * 4, 4);
    EXPECT_EQ(scale, c < 70 ? weight.scales.as<float>()[static_cast<std::size_t>(c)] : 0);
  }
}

// A sum over a row is that of each block's sum times its scale, exactly.
TEST(Panels, Int4InBlocksExpandToInt8) {
  Random random(24);
  for (const std::int64_t block : {16, 32, 64})
    for (const bool saturated : {false, true}) {
      const std::int64_t n = 70, k = 3 * block + 192, rows = 3;
      const ChannelCodes weight = testing::block_weight(random, n, k, block, saturated);
      validate(weight, "w");
      validate_codes(weight, "w");
      const Packed packed(weight);
      const testing::Int8Activations x(random, rows, k);
      const auto code_of = [&](std::int64_t c, std::int64_t i) {
        const int pair = weight.codes.as<std::uint8_t>()[static_cast<std::size_t>((c * k + i) / 2)];
        return ((pair >> (i % 2 * 4) & 15) ^ 8) - 8;
      };
      const StaticInt8Rows input = x.rows_from(0);
      std::vector<std::int32_t> sums(static_cast<std::size_t>(rows * n));
      testing::reference().linear_int8_sums(packed.layout, packed.panels.data(), packed.all(),
                                            input, rows, sums.data(), n);
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < n; ++c) {
          std::int64_t expected = 0;
          for (std::int64_t b = 0; b < k / block; ++b) {
            std::int64_t sum = 0;
            for (std::int64_t i = b * block; i < (b + 1) * block; ++i)
              sum += code_of(c, i) * int{input.codes[r * input.stride + i]};
            expected +=
                sum *
                weight.block_scales.as<std::uint8_t>()[static_cast<std::size_t>(c * k / block + b)];
          }
          EXPECT_EQ(sums[static_cast<std::size_t>(r * n + c)], expected) << block;
        }
    }
}

TEST(Panels, Int4NibblesAreEightK) {
  Random random(23);
  const std::int64_t k = 96, group = 32;
  const GroupCodes weight = testing::int4_weight(random, 70, k, group);
  const Packed packed(weight);
  const auto codes = weight.codes.as<std::uint8_t>();
  const auto zeros = weight.zero_points.as<std::uint8_t>();
  const std::int64_t group_bytes = group * 32 + 192;
  EXPECT_EQ(packed.layout.panel_bytes(), 3 * group_bytes);
  for (std::int64_t c = 0; c < 128; ++c)
    for (std::int64_t i = 0; i < k; ++i) {
      const std::int64_t g = i / group, in_group = i % group;
      const std::int64_t start = c / 64 * packed.layout.panel_bytes() + g * group_bytes;
      const int pair = byte_at(packed, start + (in_group / 8 * 64 + c % 64) * 4 + in_group % 4);
      const int code = in_group % 8 < 4 ? pair & 15 : pair >> 4;
      int expected = 0, zero = 0;
      std::uint16_t scale = 0;
      if (c < 70) {
        expected = codes[static_cast<std::size_t>(c * k / 2 + i / 2)] >> (i % 2 * 4) & 15;
        zero = zeros[static_cast<std::size_t>(c * 2 + g / 2)] >> (g % 2 * 4) & 15;
        scale = weight.scales.as<std::uint16_t>()[static_cast<std::size_t>(c * 3 + g)];
      }
      EXPECT_EQ(code, expected);
      EXPECT_EQ(byte_at(packed, start + group * 32 + 128 + c % 64), zero);
      std::uint16_t packed_scale = 1;
      std::memcpy(&packed_scale, packed.panels.data() + start + group * 32 + c % 64 * 2, 2);
      EXPECT_EQ(packed_scale, scale);
    }
}

// Reads panels through the reference kernel: the product with the identity gives each value.
std::vector<float> values_of(const Packed& packed) {
  const PanelLayout& layout = packed.layout;
  std::vector<float> values(static_cast<std::size_t>(layout.n * layout.k));
  std::vector<float> y(static_cast<std::size_t>(layout.n));
  for (std::int64_t i = 0; i < layout.k; ++i) {
    const LinearOutput out{y.data(), layout.n, nullptr};
    if (layout.kind == PanelKind::kInt4) {
      testing::Aligned<std::int8_t> codes(padded_k(layout.k));
      codes[i] = 1;
      const auto groups = static_cast<std::size_t>(layout.k / layout.group);
      const std::vector<float> scales(groups, 1.0F);
      std::vector<std::int32_t> sums(groups);
      sums[static_cast<std::size_t>(i / layout.group)] = 1;
      testing::reference().linear_int4(
          layout, packed.panels.data(), packed.all(),
          {codes.data(), padded_k(layout.k), scales.data(), sums.data()}, 1, out);
    } else if (layout.kind == PanelKind::kInt8) {
      testing::Aligned<std::int8_t> codes(padded_k(layout.k));
      codes[i] = 1;
      const std::int32_t sum = 1;
      testing::reference().linear_int8(layout, packed.panels.data(), packed.all(),
                                       {codes.data(), padded_k(layout.k), &sum, 1.0F}, 1, out);
    } else {
      std::vector<float> x(static_cast<std::size_t>(layout.k));
      x[static_cast<std::size_t>(i)] = 1;
      testing::reference().linear_float(layout, packed.panels.data(), packed.all(), x.data(),
                                        layout.k, 1, out);
    }
    for (std::int64_t c = 0; c < layout.n; ++c)
      values[static_cast<std::size_t>(c * layout.k + i)] = y[static_cast<std::size_t>(c)];
  }
  return values;
}

TEST(Panels, HoldTheValuesOfEveryKindOfGroup) {
  Random random(25);
  const std::int64_t n = 70;
  for (const int bits : {4, 8})
    for (const bool is_signed : {false, true})
      for (const bool has_zeros : {false, true})
        for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32})
          for (const auto& [k, group] : {std::pair{96, 32},
                                         {128, 64},
                                         {256, 128},
                                         {64, 16},
                                         {48, 48},
                                         {15, 5},
                                         {256, 256}}) {
            const GroupCodes weight =
                testing::group_weight(random, n, k, {bits, is_signed, has_zeros, group, dtype});
            validate(weight, "w");
            SCOPED_TRACE(describe(weight) + " " + std::string(to_string(dtype)));
            const Packed packed(weight);
            // Scales are rounded to F16, or the values.
            const bool as_int4 = bits == 4 && group % 32 == 0;
            EXPECT_EQ(packed.layout.kind, as_int4 ? PanelKind::kInt4 : PanelKind::kF16);
            EXPECT_EQ(packed.layout.group, as_int4 ? std::min(group, 128) : 0);
            GroupCodes rounded = weight;
            if (as_int4) rounded.scales = weight.scales.to_f16();
            std::vector<float> expected = dequantize_rows(rounded, 0, n);
            if (!as_int4) round_all(DType::kF16, expected);
            EXPECT_EQ(values_of(packed), expected);
          }
}

// F16 would make zeros or infinities of these scales, or of the values behind them.
TEST(Panels, HoldWhatF16CannotInFull) {
  Random random(28);
  for (const int bits : {4, 8})
    for (const float factor : {1e-7F, 1e7F}) {
      GroupCodes weight =
          testing::group_weight(random, 70, 64, {bits, false, true, 32, DType::kF32});
      std::vector<float> scales = weight.scales.to_floats();
      for (float& scale : scales) scale *= factor;
      weight.scales = Tensor::from_floats(scales, weight.scales.shape());
      const Packed packed(weight);
      EXPECT_EQ(packed.layout.kind, PanelKind::kF32);
      EXPECT_EQ(values_of(packed), dequantize_rows(weight, 0, 70));
    }
}

TEST(Panels, HoldTheValuesOfChannels) {
  Random random(26);
  for (const bool per_tensor : {false, true}) {
    const ChannelCodes weight = testing::int8_weight(random, 70, 37, false, per_tensor);
    const Packed packed(weight);
    EXPECT_EQ(packed.layout.kind, PanelKind::kInt8);
    EXPECT_EQ(values_of(packed), dequantize_rows(weight, 0, 70));
  }
}

// Rows that are computed, in a type of any width.
class Computed : public RowSource {
 public:
  Computed(Rows source, DType dtype)
      : RowSource(source->rows(), source->columns(), dtype), source_(std::move(source)) {}

 private:
  void read_rows(std::int64_t first, std::span<float> out) const override {
    source_->read(first, out);
  }
  Rows source_;
};

TEST(Panels, OfComputedRowsAreThoseOfStoredOnes) {
  Random random(27);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const FloatWeight stored = testing::float_weight(random, 150, 37, dtype);
    const Packed expected(stored);
    const Packed computed(FloatWeight(std::make_shared<Computed>(stored.rows, dtype)));
    EXPECT_EQ(computed.layout.kind, expected.layout.kind);
    EXPECT_EQ(std::memcmp(computed.panels.data(), expected.panels.data(),
                          static_cast<std::size_t>(expected.layout.bytes())),
              0);
    EXPECT_EQ(values_of(expected), dequantize_rows(stored, 0, 150));
  }
  const Rows scaled = scale_rows(testing::float_weight(random, 70, 5, DType::kF16).rows,
                                 std::vector<float>(70, 0.3F));
  const Packed packed((FloatWeight(scaled)));
  EXPECT_EQ(packed.layout.kind, PanelKind::kF32);
  EXPECT_EQ(values_of(packed), dequantize_rows(FloatWeight(scaled), 0, 70));
}

TEST(Panels, RangesPackTheSame) {
  Random random(24);
  const Weight weight = testing::int4_weight(random, 200, 128, 64);
  const Packed whole(weight);
  testing::Aligned<std::byte> parts(whole.layout.bytes());
  pack_panels(weight, whole.layout, {2, 4}, parts.data());
  pack_panels(weight, whole.layout, {0, 2}, parts.data());
  EXPECT_EQ(std::memcmp(parts.data(), whole.panels.data(),
                        static_cast<std::size_t>(whole.layout.bytes())),
            0);
}

}  // namespace
}  // namespace tandem
