// Quantized weights: their layout, spelled out by hand, and what is refused.
#include "tensor/weight.h"

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
  Int4Groups weight;
  std::vector<float> values;  // [n, k], computed from the unpacked numbers
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
  result.weight = {n,
                   k,
                   group,
                   tensor_of(DType::kU8, {n, k / 2}, codes),
                   tensor_of(DType::kF16, {n, groups}, scales),
                   tensor_of(DType::kU8, {n, zero_bytes}, zeros)};
  return result;
}

Int8Channels small_int8() {
  return {2, 3, tensor_of<std::int8_t>(DType::kI8, {2, 3}, {1, -2, 3, 127, -127, 0}),
          tensor_of<float>(DType::kF32, {2}, {0.5f, 2.0f}), 0.25f};
}

TEST(Weight, DequantizesInt4Groups) {
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
  Int8Channels w = small_int8();
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
  const Int4Groups good = random_int4(4, 96, 32).weight;
  const auto message = [&](const std::function<void(Int4Groups&)>& spoil) {
    Int4Groups w = good;
    spoil(w);
    return error_of([&] { validate(w, "layer.q"); });
  };
  EXPECT_EQ(message([](auto& w) { w.group = 48; }),
            "[weight] layer.q: group: expected 32, 64 or 128, got 48");
  EXPECT_NE(message([](auto& w) { w.group = 128; }).find("not a multiple"), std::string::npos);
  EXPECT_NE(message([](auto& w) { w.n = 0; }).find("not a matrix"), std::string::npos);
  EXPECT_NE(message([](auto& w) { w.n = -4; }).find("not a matrix"), std::string::npos);
  EXPECT_EQ(message([](auto& w) { w.n = 5; }),
            "[weight] layer.q: codes: expected U8 [5, 48], got U8 [4, 48]");
  EXPECT_NE(message([](auto& w) { w.k = 64; }).find("codes: expected"), std::string::npos);
  EXPECT_NE(message([](auto& w) { w.codes = Tensor(); }).find("codes are missing"),
            std::string::npos);
  EXPECT_NE(message([](auto& w) { w.scales = w.codes; }).find("scales: expected F16 [4, 3]"),
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
}

TEST(Weight, RefusesInt8PartsThatDoNotFit) {
  const auto message = [&](const std::function<void(Int8Channels&)>& spoil) {
    Int8Channels w = small_int8();
    spoil(w);
    return error_of([&] { validate(w, "w"); });
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(message([](auto& w) { w.k = 2; }).find("codes: expected I8 [2, 2]"), std::string::npos);
  EXPECT_NE(message([](auto& w) {
              w.codes = tensor_of<std::int8_t>(DType::kI8, {2, 3}, {0, 0, 0, 0, -128, 0});
            }).find("got -128"),
            std::string::npos);
  EXPECT_FALSE(message([&](auto& w) {
                 w.scales = Tensor::from_floats(std::vector{1.0f, nan}, {2});
               }).empty());
  EXPECT_FALSE(message([&](auto& w) {
                 w.scales = Tensor::from_floats(std::vector{1.0f, -1.0f}, {2});
               }).empty());
  EXPECT_FALSE(message([&](auto& w) {
                 w.scales = Tensor::from_floats(std::vector<float>(3), {3});
               }).empty());
  EXPECT_FALSE(message([&](auto& w) { w.input_scale = nan; }).empty());
  EXPECT_FALSE(message([&](auto& w) { w.input_scale = -1; }).empty());
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
  EXPECT_EQ(std::get<Int4Groups>(slice).codes.bytes().data(),
            int4.weight.codes.bytes().data() + 2 * 48);

  const Weight floats = FloatWeight{tensor_of<float>(DType::kF32, {3, 2}, {1, 2, 3, 4, 5, 6})};
  EXPECT_EQ(dequantize_rows(slice_rows(floats, 1, 2), 0, 2), (std::vector<float>{3, 4, 5, 6}));
  EXPECT_EQ(dequantize_rows(gather_rows(floats, std::vector<std::int64_t>{2, 0}), 0, 2),
            (std::vector<float>{5, 6, 1, 2}));

  const Int8Channels per_tensor{3, 2,
                                tensor_of<std::int8_t>(DType::kI8, {3, 2}, {1, 2, 3, 4, 5, 6}),
                                tensor_of<float>(DType::kF32, {1}, {2}), 0.5F};
  EXPECT_EQ(dequantize_rows(slice_rows(per_tensor, 1, 1), 0, 1), (std::vector<float>{6, 8}));
  EXPECT_EQ(std::get<Int8Channels>(slice_rows(per_tensor, 1, 1)).input_scale, 0.5F);
  EXPECT_THROW(slice_rows(floats, 2, 2), Error);
  EXPECT_THROW(gather_rows(floats, std::vector<std::int64_t>{3}), Error);
}

}  // namespace
}  // namespace tandem
