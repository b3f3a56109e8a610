// Quantized weights: their layout, spelled out by hand, and what is rejected.
#include "tensor/weight.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "support.h"
#include "tensor/half.h"

namespace tandem {
namespace {

using testing::error_of;

template <typename T>
Tensor tensor_of(DType dtype, const Shape& shape, const std::vector<T>& values) {
  std::byte* data = nullptr;
  Tensor tensor = Tensor::allocate(dtype, shape, &data);
  EXPECT_EQ(tensor.bytes().size(), values.size() * sizeof(T));
  std::memcpy(data, values.data(), tensor.bytes().size());
  return tensor;
}

struct PlainInt4 {
  GroupCodes weight;
  // [n, k], computed from the unpacked numbers
  std::vector<float> values;
};

// Random codes, packed here by the rule of ONNX's MatMulNBits: value i sits in byte i / 2, even i
// in the low nibble.
PlainInt4 random_int4(std::int64_t n, std::int64_t k, std::int64_t group) {
  std::mt19937 random(static_cast<unsigned>(n * 1000 + k));
  const std::int64_t groups = k / group;
  const std::int64_t zero_bytes = (groups + 1) / 2;
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(n * k / 2)),
      zeros(static_cast<std::size_t>(n * zero_bytes));
  std::vector<std::uint16_t> scales(static_cast<std::size_t>(n * groups));
  PlainInt4 result;
  for (std::int64_t row = 0; row < n; ++row) {
    for (std::int64_t g = 0; g < groups; ++g) {
      const auto zero = static_cast<std::uint8_t>(random() % 16);
      const float scale = f16_to_float(float_to_f16(0.001f * static_cast<float>(random() % 1000)));
      scales[static_cast<std::size_t>(row * groups + g)] = float_to_f16(scale);
      zeros[static_cast<std::size_t>(row * zero_bytes + g / 2)] |=
          static_cast<std::uint8_t>(g % 2 ? zero << 4 : zero);
      for (std::int64_t c = g * group; c < (g + 1) * group; ++c) {
        const auto code = static_cast<std::uint8_t>(random() % 16);
        codes[static_cast<std::size_t>((row * k + c) / 2)] |=
            static_cast<std::uint8_t>(c % 2 ? code << 4 : code);
        result.values.push_back(static_cast<float>(int{code} - int{zero}) * scale);
      }
    }
  }
  result.weight = {.n = n, .k = k, .group = group};
  result.weight.codes = tensor_of(DType::kU8, {n, k / 2}, codes);
  result.weight.scales = tensor_of(DType::kF16, {n, groups}, scales);
  result.weight.zero_points = tensor_of(DType::kU8, {n, zero_bytes}, zeros);
  return result;
}

ChannelCodes small_int8() {
  return {2, 3, tensor_of<std::int8_t>(DType::kI8, {2, 3}, {1, -2, 3, 127, -127, 0}),
          tensor_of<float>(DType::kF32, {2}, {0.5f, 2.0f})};
}

TEST(Weight, DequantizesInt4InGroups) {
  for (const auto& [n, k, group] :
       {std::tuple{3, 96, 32}, {2, 64, 64}, {5, 384, 128}, {1, 32, 32}}) {
    const PlainInt4 plain = random_int4(n, k, group);
    const Weight weight = plain.weight;
    validate(weight, "w");
    EXPECT_EQ(dequantize_rows(weight, 0, n), plain.values);
    const std::vector<float> last(plain.values.end() - k, plain.values.end());
    EXPECT_EQ(dequantize_rows(weight, n - 1, 1), last);
    EXPECT_EQ(output_channels(weight), n);
    EXPECT_EQ(input_channels(weight), k);
  }
}

TEST(Weight, DequantizesInt8) {
  ChannelCodes w = small_int8();
  validate(w, "w");
  EXPECT_EQ(dequantize_rows(w, 0, 2),
            (std::vector<float>{0.5f, -1.0f, 1.5f, 254.0f, -254.0f, 0.0f}));
  EXPECT_EQ(dequantize_rows(w, 1, 1), (std::vector<float>{254.0f, -254.0f, 0.0f}));
  w.scales = Tensor::from_floats(std::vector<float>{3.0f}, {1});
  validate(w, "w");
  EXPECT_EQ(dequantize_rows(w, 1, 1), (std::vector<float>{381.0f, -381.0f, 0.0f}));
}

TEST(Weight, DequantizesFloats) {
  const Weight weight =
      FloatWeight{tensor_of<std::uint16_t>(DType::kBF16, {2, 2}, {0x3f80, 0x4000, 0x4040, 0x4080})};
  validate(weight, "w");
  EXPECT_EQ(dequantize_rows(weight, 1, 1), (std::vector<float>{3, 4}));
}

// Every kind of codes, from numbers that are packed here.
TEST(Weight, DequantizesEveryKindOfGroup) {
  std::mt19937 random(9);
  for (const int bits : {4, 8})
    for (const bool is_signed : {false, true})
      for (const bool has_zeros : {false, true})
        for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32})
          for (const auto& [k, group] : {std::pair{15, 5}, {15, 15}, {15, 1}, {64, 32}, {6, 2}}) {
            SCOPED_TRACE(fmt::format("{} bits, signed {}, zeros {}, {}, k {} g {}", bits, is_signed,
                                     has_zeros, to_string(dtype), k, group));
            const std::int64_t n = 3;
            const std::int64_t groups = k / group;
            const auto bytes = [&](std::int64_t count) { return (count * bits + 7) / 8; };
            std::vector<std::uint8_t> codes(static_cast<std::size_t>(n * bytes(k)));
            std::vector<std::uint8_t> zeros(static_cast<std::size_t>(n * bytes(groups)));
            const int low = is_signed ? -(1 << (bits - 1)) : 0;
            const int values = 1 << bits;
            const auto put = [&](std::vector<std::uint8_t>& to, std::int64_t row,
                                 std::int64_t row_bytes, std::int64_t i) {
              const int value = low + static_cast<int>(random() % static_cast<unsigned>(values));
              const auto at = static_cast<std::size_t>(row * row_bytes + i * bits / 8);
              const int shift = bits == 4 ? static_cast<int>(i % 2) * 4 : 0;
              to[at] = static_cast<std::uint8_t>(to[at] | (value & (values - 1)) << shift);
              return value;
            };
            std::vector<float> scales, expected;
            for (std::int64_t row = 0; row < n; ++row)
              for (std::int64_t g = 0; g < groups; ++g) {
                // Exact in every type.
                scales.push_back(0.125F * static_cast<float>(1 + random() % 100));
                int zero = is_signed ? 0 : values / 2;
                if (has_zeros) zero = put(zeros, row, bytes(groups), g);
                for (std::int64_t c = g * group; c < (g + 1) * group; ++c)
                  expected.push_back(static_cast<float>(put(codes, row, bytes(k), c) - zero) *
                                     scales.back());
              }
            std::vector<std::uint16_t> halves;
            for (const float scale : scales)
              halves.push_back(dtype == DType::kF16 ? float_to_f16(scale) : float_to_bf16(scale));
            GroupCodes w{.n = n, .k = k, .bits = bits, .is_signed = is_signed, .group = group};
            w.codes =
                tensor_of(bits == 8 && is_signed ? DType::kI8 : DType::kU8, {n, bytes(k)}, codes);
            w.scales = dtype == DType::kF32 ? Tensor::from_floats(scales, {n, groups})
                                            : tensor_of(dtype, {n, groups}, halves);
            if (has_zeros) w.zero_points = tensor_of(DType::kU8, {n, bytes(groups)}, zeros);
            validate(w, "w");
            EXPECT_EQ(dequantize_rows(w, 0, n), expected);
            const std::vector<float> last(expected.end() - k, expected.end());
            EXPECT_EQ(dequantize_rows(slice_rows(w, n - 1, 1), 0, 1), last);
            EXPECT_EQ(dequantize_rows(gather_rows(w, std::vector<std::int64_t>{2}), 0, 1), last);
            const Weight again =
                join_rows(std::vector<Weight>{slice_rows(w, 0, 1), slice_rows(w, 1, 2)});
            EXPECT_EQ(dequantize_rows(again, 0, n), expected);
            EXPECT_EQ(describe(again), describe(w));
            std::string note;
            if (!has_zeros) note = " symmetric";
            if (has_zeros && is_signed) note = " signed";
            EXPECT_EQ(describe(w), fmt::format("int{} g{}{} [3, {}]", bits, group, note, k));
          }
}

TEST(Weight, JoinsOneFormOnly) {
  const Weight codes = random_int4(3, 64, 32).weight;
  for (const Weight& other :
       {Weight(random_int4(3, 64, 64).weight), Weight(random_int4(3, 32, 32).weight),
        Weight(FloatWeight(Tensor::from_floats(std::vector<float>(64), {1, 64})))})
    EXPECT_NE(error_of([&] { join_rows(std::vector<Weight>{codes, other}); }).find("one form"),
              std::string::npos);
  EXPECT_FALSE(error_of([] { join_rows(std::vector<Weight>()); }).empty());
}

TEST(Weight, WritesRowsIntoMemoryOfTheCaller) {
  const PlainInt4 plain = random_int4(3, 64, 32);
  std::vector<float> out(2 * 64);
  dequantize_rows(plain.weight, 1, out);
  EXPECT_EQ(out, std::vector<float>(plain.values.begin() + 64, plain.values.end()));
  EXPECT_FALSE(error_of([&] { dequantize_rows(plain.weight, 2, out); }).empty());
  EXPECT_FALSE(
      error_of([&] { dequantize_rows(plain.weight, 0, std::span(out).first(63)); }).empty());
}

TEST(Weight, OfRowsThatAreComputed) {
  const Rows doubled = scale_columns(
      stored_rows(tensor_of<std::uint16_t>(DType::kBF16, {2, 2}, {0x3f80, 0x4000, 0x4040, 0x4080})),
      {2, 3});
  const Weight weight = FloatWeight(doubled);
  validate(weight, "w");
  EXPECT_EQ(describe(weight), "f32 [2, 2]");
  EXPECT_EQ(stored_bytes(weight), 16);
  EXPECT_EQ(dequantize_rows(weight, 0, 2), (std::vector<float>{2, 6, 6, 12}));
  EXPECT_EQ(dequantize_rows(slice_rows(weight, 1, 1), 0, 1), (std::vector<float>{6, 12}));
  EXPECT_EQ(describe(FloatWeight{}), "no weight");
}

TEST(Weight, DescribesAndMeasures) {
  const Weight int4 = random_int4(4, 384, 128).weight;
  EXPECT_EQ(describe(int4), "int4 g128 [4, 384]");
  EXPECT_EQ(stored_bytes(int4), 4 * 192 + 4 * 3 * 2 + 4 * 2);
  EXPECT_EQ(describe(small_int8()), "int8 [2, 3]");
  EXPECT_EQ(stored_bytes(small_int8()), 6 + 8);
  const Weight bf16 = FloatWeight{tensor_of<std::uint16_t>(DType::kBF16, {1, 2}, {0, 0})};
  EXPECT_EQ(describe(bf16), "bf16 [1, 2]");
  EXPECT_EQ(stored_bytes(bf16), 4);
}

TEST(Weight, RefusesRowsThatDoNotExist) {
  for (const auto& [begin, rows] : {std::pair{-1, 1}, {0, 3}, {3, 0}, {1, -1}})
    EXPECT_FALSE(
        error_of([&, b = begin, r = rows] { dequantize_rows(small_int8(), b, r); }).empty());
}

TEST(Weight, RefusesInt4PartsThatDoNotFit) {
  const GroupCodes good = random_int4(4, 96, 32).weight;
  const auto message = [&](const std::function<void(GroupCodes&)>& spoil) {
    GroupCodes w = good;
    spoil(w);
    return error_of([&] { validate(w, "layer.q"); });
  };
  EXPECT_EQ(message([](auto& w) { w.bits = 5; }),
            "[weight] layer.q: expected codes of 4 or 8 bits, got 5");
  EXPECT_EQ(message([](auto& w) { w.group = 0; }),
            "[weight] layer.q: group: expected 1 to k = 96, got 0");
  EXPECT_EQ(message([](auto& w) { w.group = 128; }),
            "[weight] layer.q: group: expected 1 to k = 96, got 128");
  EXPECT_EQ(message([](auto& w) { w.group = 64; }),
            "[weight] layer.q: k = 96 is not a multiple of the group 64");
  EXPECT_NE(message([](auto& w) { w.group = 48; }).find("scales: expected F16 [4, 2]"),
            std::string::npos);
  EXPECT_NE(message([](auto& w) { w.bits = 8; }).find("codes: expected U8 [4, 96]"),
            std::string::npos);
  EXPECT_NE(message([](auto& w) { w.bits = 8, w.is_signed = true; }).find("codes: expected I8"),
            std::string::npos);
  EXPECT_NE(message([](auto& w) { w.scales = Tensor(); }).find("scales are missing"),
            std::string::npos);
  EXPECT_NE(message([](auto& w) { w.n = 0; }).find("not a matrix"), std::string::npos);
  EXPECT_NE(message([](auto& w) { w.n = -4; }).find("not a matrix"), std::string::npos);
  EXPECT_EQ(message([](auto& w) { w.n = 5; }),
            "[weight] layer.q: codes: expected U8 [5, 48], got U8 [4, 48]");
  EXPECT_NE(message([](auto& w) { w.k = 64; }).find("codes: expected"), std::string::npos);
  EXPECT_NE(message([](auto& w) { w.codes = Tensor(); }).find("codes are missing"),
            std::string::npos);
  EXPECT_NE(message([](auto& w) { w.scales = w.codes; }).find("scales: expected F16, BF16 or F32"),
            std::string::npos);
  EXPECT_NE(
      message([](auto& w) { w.zero_points = w.codes; }).find("zero points: expected U8 [4, 2]"),
      std::string::npos);
  EXPECT_NE(message([](auto& w) {
              std::vector<std::uint16_t> scales(12, 0x3c00);
              scales[7] = 0x7c00;
              w.scales = tensor_of(DType::kF16, {4, 3}, scales);
            }).find("row 2, group 1 is not finite"),
            std::string::npos);
  EXPECT_NE(message([](auto& w) {
              std::vector<float> scales(12, 1.0F);
              scales[11] = std::numeric_limits<float>::quiet_NaN();
              w.scales = Tensor::from_floats(scales, {4, 3});
            }).find("row 3, group 2 is not finite"),
            std::string::npos);
}

TEST(Weight, RefusesInt8PartsThatDoNotFit) {
  const auto message = [&](const std::function<void(ChannelCodes&)>& spoil) {
    ChannelCodes w = small_int8();
    spoil(w);
    return error_of([&] { validate(w, "w"); });
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(message([](auto& w) { w.k = 2; }).find("codes: expected I8 [2, 2]"), std::string::npos);
  EXPECT_FALSE(message([&](auto& w) {
                 w.scales = Tensor::from_floats(std::vector{1.0f, nan}, {2});
               }).empty());
  EXPECT_FALSE(message([&](auto& w) {
                 w.scales = Tensor::from_floats(std::vector{1.0f, -1.0f}, {2});
               }).empty());
  EXPECT_FALSE(message([&](auto& w) {
                 w.scales = Tensor::from_floats(std::vector<float>(3), {3});
               }).empty());
}

TEST(Weight, FindsCodesThatAreNone) {
  ChannelCodes w = small_int8();
  validate_codes(w, "w");
  w.codes = tensor_of<std::int8_t>(DType::kI8, {2, 3}, {0, 0, 0, 0, -128, 0});
  // Only the scan looks at codes.
  validate(w, "w");
  EXPECT_EQ(error_of([&] { validate_codes(w, "w"); }),
            "[weight] w: row 1: expected codes in [-127, 127], got -128");
  validate_codes(random_int4(2, 64, 32).weight, "w");
  validate_codes(FloatWeight(Tensor::from_floats(std::vector<float>(4), {2, 2})), "w");
}

// Codes -7 to 7 and back, with block scales 1 to 6.
ChannelCodes small_blocks() {
  std::vector<std::uint8_t> codes;
  for (int i = 0; i < 2 * 48; i += 2) {
    const int low = i % 15 - 7, high = (i + 1) % 15 - 7;
    codes.push_back(static_cast<std::uint8_t>((low & 15) | (high & 15) << 4));
  }
  return {2, 48, tensor_of(DType::kU8, {2, 24}, codes),
          tensor_of<float>(DType::kF32, {2}, {0.5F, 2}),
          tensor_of<std::uint8_t>(DType::kU8, {2, 3}, {1, 2, 3, 4, 5, 6})};
}

TEST(Weight, ExpandsInt4InBlocks) {
  const ChannelCodes w = small_blocks();
  validate(w, "w");
  validate_codes(w, "w");
  std::vector<float> expected;
  for (int i = 0; i < 2 * 48; ++i)
    expected.push_back(static_cast<float>((i % 15 - 7) * (i / 16 + 1)) * (i < 48 ? 0.5F : 2.0F));
  EXPECT_EQ(dequantize_rows(w, 0, 2), expected);
  // From the middle of a block to that of another.
  std::vector<std::int8_t> some(30);
  read_codes(w, 1, 10, some);
  for (int i = 0; i < 30; ++i)
    EXPECT_EQ(some[static_cast<std::size_t>(i)], ((58 + i) % 15 - 7) * ((58 + i) / 16 + 1)) << i;
  EXPECT_EQ(describe(w), "int4 block 16 [2, 48]");
  EXPECT_EQ(stored_bytes(w), 2 * 24 + 2 * 3 + 2 * 4);
  EXPECT_EQ(parts_of(w).size(), 3U);
  const std::vector<float> last(expected.begin() + 48, expected.end());
  EXPECT_EQ(dequantize_rows(slice_rows(w, 1, 1), 0, 1), last);
  const std::vector<Weight> both = {w, slice_rows(w, 0, 1)};
  EXPECT_EQ(dequantize_rows(join_rows(both), 0, 2), expected);
  const std::vector<Weight> mixed = {w, small_int8()};
  EXPECT_FALSE(error_of([&] { join_rows(mixed); }).empty());
}

TEST(Weight, RefusesBlocksThatDoNotFit) {
  const auto message = [&](const std::function<void(ChannelCodes&)>& spoil) {
    ChannelCodes w = small_blocks();
    spoil(w);
    return error_of([&] { validate(w, "w"); });
  };
  const auto scales = [](const Shape& shape, std::uint8_t last) {
    std::vector<std::uint8_t> values(static_cast<std::size_t>(element_count(shape)), 1);
    values.back() = last;
    return tensor_of(DType::kU8, shape, values);
  };
  for (const int bad : {0, 17, 255})
    EXPECT_EQ(
        message([&](auto& w) { w.block_scales = scales({2, 3}, static_cast<std::uint8_t>(bad)); }),
        fmt::format("[weight] w: the scale of row 1, block 2: expected 1 to 16, got {}", bad));
  for (const Shape& shape : {Shape{6}, Shape{2, 1}, Shape{2, 5}, Shape{2, 6}})
    EXPECT_EQ(
        message([&](auto& w) { w.block_scales = scales(shape, 1); }),
        "[weight] w: block scales: expected one for every 16, 32 or 64 of k = 48 columns, got " +
            to_string(shape));
  EXPECT_EQ(message([&](auto& w) { w.block_scales = scales({3, 3}, 1); }),
            "[weight] w: block scales: expected U8 [2, 3], got U8 [3, 3]");
  EXPECT_EQ(message([](auto& w) { w.codes = small_int8().codes; }),
            "[weight] w: codes: expected U8 [2, 24], got I8 [2, 3]");
  EXPECT_NE(message([](auto& w) { w.scales = Tensor(); }).find("scales are missing"),
            std::string::npos);
  for (const std::uint8_t pair : {0x08, 0x80}) {
    ChannelCodes w = small_blocks();
    std::vector<std::uint8_t> codes(48);
    codes[40] = pair;
    w.codes = tensor_of(DType::kU8, {2, 24}, codes);
    validate(w, "w");
    EXPECT_EQ(error_of([&] { validate_codes(w, "w"); }),
              "[weight] w: row 1: expected codes in [-7, 7], got -8");
  }
}

TEST(Weight, RefusesFloatsThatAreNoMatrix) {
  EXPECT_FALSE(error_of([] { validate(FloatWeight{}, "w"); }).empty());
  EXPECT_FALSE(error_of([] {
                 validate(FloatWeight{Tensor::from_floats(std::vector<float>(3), {3})}, "w");
               }).empty());
  EXPECT_FALSE(
      error_of([] { validate(FloatWeight{Tensor::from_floats({}, {0, 4})}, "w"); }).empty());
  EXPECT_FALSE(error_of([] {
                 validate(FloatWeight{tensor_of<std::int32_t>(DType::kI32, {1, 1}, {1})}, "w");
               }).empty());
}

TEST(Weight, GivesSomeOfItsRows) {
  const PlainInt4 int4 = random_int4(6, 96, 32);
  const std::vector<std::int64_t> order = {5, 0, 3};
  const auto row = [&](std::int64_t r) { return dequantize_rows(int4.weight, r, 1); };
  const Weight gathered = gather_rows(int4.weight, order);
  validate(gathered, "gathered");
  EXPECT_EQ(output_channels(gathered), 3);
  for (std::size_t i = 0; i < order.size(); ++i)
    EXPECT_EQ(dequantize_rows(gathered, static_cast<std::int64_t>(i), 1), row(order[i]));
  const Weight slice = slice_rows(int4.weight, 2, 3);
  validate(slice, "slice");
  for (std::int64_t r = 0; r < 3; ++r) EXPECT_EQ(dequantize_rows(slice, r, 1), row(2 + r));
  EXPECT_EQ(std::get<GroupCodes>(slice).codes.bytes().data(),
            int4.weight.codes.bytes().data() + 2 * 48);

  const Weight floats = FloatWeight{tensor_of<float>(DType::kF32, {3, 2}, {1, 2, 3, 4, 5, 6})};
  EXPECT_EQ(dequantize_rows(slice_rows(floats, 1, 2), 0, 2), (std::vector<float>{3, 4, 5, 6}));
  EXPECT_EQ(dequantize_rows(gather_rows(floats, std::vector<std::int64_t>{2, 0}), 0, 2),
            (std::vector<float>{5, 6, 1, 2}));

  const ChannelCodes per_tensor{3, 2,
                                tensor_of<std::int8_t>(DType::kI8, {3, 2}, {1, 2, 3, 4, 5, 6}),
                                tensor_of<float>(DType::kF32, {1}, {2})};
  EXPECT_EQ(dequantize_rows(slice_rows(per_tensor, 1, 1), 0, 1), (std::vector<float>{6, 8}));
  EXPECT_THROW(slice_rows(floats, 2, 2), Error);
  EXPECT_THROW(gather_rows(floats, std::vector<std::int64_t>{3}), Error);
}

}  // namespace
}  // namespace tandem
