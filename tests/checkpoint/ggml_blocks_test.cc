// ggml's blocks, bit-exact against llama.cpp's Python package.
#include "checkpoint/gguf/ggml_blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "checkpoint/gguf/block_tensors.h"
#include "checkpoint/gguf/interleaved_rows.h"
#include "checkpoint/safetensors.h"
#include "support.h"
#include "tensor/half.h"

namespace tandem {
namespace {

GgmlType type_of(std::string_view name) {
  for (std::uint32_t number = 0; number < 64; ++number) {
    const auto found = find_ggml_type(number);
    if (found && found->name == name) return found->type;
  }
  ADD_FAILURE() << name;
  return GgmlType::kF32;
}

class GgmlBlocks : public ::testing::Test {
 protected:
  std::map<std::string, Tensor> tensors_ =
      SafetensorsFile::open(testing::fixture("checkpoint/fixtures/ggml_blocks.safetensors"))
          .tensors;
};

TEST_F(GgmlBlocks, DequantizeAsThePythonPackage) {
  for (const char* name : {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
                           "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"}) {
    const Tensor& blocks = tensors_.at(std::string(name) + ".bytes");
    const std::vector<float> want = tensors_.at(std::string(name) + ".values").to_floats();
    std::vector<float> got(want.size());
    ASSERT_TRUE(can_dequantize(type_of(name)));
    dequantize_blocks(type_of(name), blocks.bytes(), got);
    for (std::size_t i = 0; i < want.size(); ++i)
      ASSERT_EQ(std::bit_cast<std::uint32_t>(got[i]), std::bit_cast<std::uint32_t>(want[i]))
          << name << " element " << i;
  }
}

TEST_F(GgmlBlocks, QuantizeAsThePythonPackage) {
  const std::vector<float> source = tensors_.at("source").to_floats();
  for (const char* name : {"F16", "BF16", "Q8_0", "Q4_0", "Q4_1"}) {
    const auto want = tensors_.at("quantized." + std::string(name)).bytes();
    std::vector<std::byte> got(want.size());
    quantize_blocks(type_of(name), source, got, "w");
    EXPECT_TRUE(std::ranges::equal(got, want)) << name;
  }
}

// Byte for byte, where the package has no quantizer: the library itself.
TEST_F(GgmlBlocks, QuantizeAsLlamaCpp) {
  const auto fixture =
      SafetensorsFile::open(testing::fixture("checkpoint/fixtures/k_quants.safetensors")).tensors;
  for (const char* name : {"Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K"}) {
    const bool is_k_quant = ggml_info(type_of(name)).block_elements == 256;
    const std::vector<float> values = fixture.at(is_k_quant ? "source" : "small").to_floats();
    const Tensor& want = fixture.at("quantized." + std::string(name));
    std::vector<std::byte> got(want.bytes().size());
    quantize_blocks(type_of(name), values, got, "w");
    const std::size_t row = got.size() / static_cast<std::size_t>(want.shape()[0]);
    for (std::size_t i = 0; i < got.size(); ++i)
      ASSERT_EQ(got[i], want.bytes()[i])
          << name << " row " << i / row << " byte " << i % row << " of " << row;
  }
  const std::vector<float> want = fixture.at("values.Q8_K").to_floats();
  std::vector<float> got(want.size());
  dequantize_blocks(GgmlType::kQ8_K, fixture.at("quantized.Q8_K").bytes(), got);
  EXPECT_EQ(got, want);
}

// Q4_0 of eight rows, of which four or eight take turns.
TEST_F(GgmlBlocks, InterleaveRows) {
  const auto fixture =
      SafetensorsFile::open(testing::fixture("checkpoint/fixtures/k_quants.safetensors")).tensors;
  const auto plain = fixture.at("quantized.Q4_0").bytes();
  for (const char* name : {"Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8"}) {
    const GgmlType type = type_of(name);
    const auto want = fixture.at("quantized." + std::string(name)).bytes();
    EXPECT_TRUE(std::ranges::equal(interleave_rows(type, plain, 64), want)) << name;
    EXPECT_TRUE(std::ranges::equal(separate_rows(type, {8, 64}, want, "x").bytes(), plain)) << name;
    EXPECT_EQ(checked_ggml_bytes(type, {8, 64}), std::ssize(want));
    for (const Shape& shape : {Shape{6, 64}, {512}, {8, 60}, {2, 4, 64}})
      EXPECT_NE(testing::error_of([&] {
                  separate_rows(type, shape, want, "x");
                }).find("rows interleaved: expected a matrix of them"),
                std::string::npos);
  }
  EXPECT_TRUE(separate_rows(GgmlType::kQ4_0_4_4, {4, 0}, {}, "x").bytes().empty());
  EXPECT_FALSE(interleaving_of(GgmlType::kQ4_0));
}

// What a block stands for is within half a step of what was rounded.
TEST_F(GgmlBlocks, KQuantsAreNear) {
  const std::vector<float> source = tensors_.at("source").to_floats();
  const std::span<const float> values = std::span(source).first(256);
  double squares = 0;
  for (const float value : values) squares += value * value;
  for (const auto& [type, limit] :
       {std::pair{GgmlType::kQ4_K, 0.09}, {GgmlType::kQ5_K, 0.045}, {GgmlType::kQ6_K, 0.025}}) {
    std::vector<std::byte> block(static_cast<std::size_t>(ggml_info(type).block_bytes));
    quantize_blocks(type, values, block, "w");
    std::vector<float> back(256);
    dequantize_blocks(type, block, back);
    double error = 0;
    for (std::size_t i = 0; i < 256; ++i) error += std::pow(back[i] - values[i], 2);
    EXPECT_LT(std::sqrt(error / squares), limit) << to_string(type);
  }
}

TEST_F(GgmlBlocks, RefuseWhatHasNoForm) {
  std::vector<float> values(32, 1.0f);
  std::vector<std::byte> out(64);
  const auto error = [&](GgmlType type, float value, std::size_t bytes) {
    values[7] = value;
    return testing::error_of(
        [&] { quantize_blocks(type, values, std::span(out).first(bytes), "w"); });
  };
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(error(GgmlType::kF16, 7e4f, 64),
            "[ggml] w: 70000 has no F16 form: expected magnitudes up to 65504");
  EXPECT_EQ(error(GgmlType::kQ4_0, kInfinity, 18),
            "[ggml] w: inf has no Q4_0 form: expected magnitudes up to 524032");
  EXPECT_NE(error(GgmlType::kQ8_0, std::numeric_limits<float>::quiet_NaN(), 34), "");
  EXPECT_EQ(error(GgmlType::kQ4_K, 6e5f, 64),
            "[ggml] w: 600000 has no Q4_K form: expected magnitudes up to 524032");
  EXPECT_EQ(error(GgmlType::kQ5_1, 7e4f, 24),
            "[ggml] w: 70000 has no Q5_1 form: expected magnitudes up to 65504");
  EXPECT_EQ(error(GgmlType::kIQ3_S, 1, 64), "[ggml] w: type IQ3_S is not written here");
  EXPECT_FALSE(can_dequantize(GgmlType::kIQ3_S));
  EXPECT_FALSE(can_dequantize(GgmlType::kI32));
}

// MXFP4 has the range of F32: in F16, half of its exponents would be out of reach.
TEST_F(GgmlBlocks, LoadAsADtypeThatHoldsThem) {
  for (const auto& [name, dtype] :
       {std::pair{"IQ4_NL", DType::kF16}, {"IQ4_XS", DType::kF16}, {"MXFP4", DType::kBF16}}) {
    const Tensor& blocks = tensors_.at(std::string(name) + ".bytes");
    const Tensor& values = tensors_.at(std::string(name) + ".values");
    const Tensor loaded = load_blocks(type_of(name), values.shape(), blocks, "x");
    EXPECT_EQ(loaded.dtype(), dtype);
    EXPECT_EQ(loaded_dtype(type_of(name)), dtype);
    const std::vector<float> want = values.to_floats();
    const std::vector<float> got = loaded.to_floats();
    for (std::size_t i = 0; i < want.size(); ++i)
      ASSERT_EQ(got[i], dtype == DType::kBF16 ? want[i] : f16_to_float(float_to_f16(want[i])))
          << name << " element " << i;
  }
}

TEST_F(GgmlBlocks, RefuseValuesThatNoDtypeHolds) {
  const auto error = [](GgmlType type, std::vector<std::uint8_t> block) {
    const Tensor raw(DType::kU8, {static_cast<std::int64_t>(block.size())},
                     std::as_bytes(std::span(block)), nullptr);
    return testing::error_of(
        [&] { load_blocks(type, {ggml_info(type).block_elements}, raw, "x"); });
  };
  // An exponent of 255, E8M0's NaN, is 2^127 for ggml; times 12 it is beyond every float.
  std::vector<std::uint8_t> mxfp4(17, 0x77);
  mxfp4[0] = 255;
  EXPECT_EQ(error(GgmlType::kMXFP4, mxfp4), "x: the value inf is beyond BF16");
  // A scale of infinity, and one that is finite by itself.
  std::vector<std::uint8_t> iq4_nl(18, 0x88);
  iq4_nl[0] = 0x00, iq4_nl[1] = 0x7c;
  EXPECT_EQ(error(GgmlType::kIQ4_NL, iq4_nl), "x: the value inf is beyond F16");
  std::vector<std::uint8_t> iq4_xs(136, 0xff);
  iq4_xs[0] = 0xff, iq4_xs[1] = 0x7b;
  EXPECT_NE(error(GgmlType::kIQ4_XS, iq4_xs).find("is beyond F16"), std::string::npos);
  EXPECT_NE(error(GgmlType::kIQ3_S, std::vector<std::uint8_t>(110)).find("type IQ3_S is not read"),
            std::string::npos);
}

TEST_F(GgmlBlocks, TinyValuesBecomeZero) {
  std::vector<float> values(32, std::numeric_limits<float>::denorm_min());
  for (const auto& [type, size] : {std::pair{GgmlType::kQ4_0, 18}, {GgmlType::kQ8_0, 34}}) {
    std::vector<std::byte> block(static_cast<std::size_t>(size));
    quantize_blocks(type, values, block, "w");
    std::vector<float> back(32, 1);
    dequantize_blocks(type, block, back);
    EXPECT_EQ(back, std::vector<float>(32, 0)) << to_string(type);
  }
}

TEST_F(GgmlBlocks, SizesAreChecked) {
  EXPECT_EQ(checked_ggml_bytes(GgmlType::kQ4_K, {3, 512}), 3 * 2 * 144);
  EXPECT_EQ(checked_ggml_bytes(GgmlType::kQ4_K, {3, 500}), std::nullopt);
  EXPECT_EQ(checked_ggml_bytes(GgmlType::kIQ4_NL, {2, 96}), 2 * 3 * 18);
  EXPECT_EQ(checked_ggml_bytes(GgmlType::kMXFP4, {2, 96}), 2 * 3 * 17);
  EXPECT_EQ(checked_ggml_bytes(GgmlType::kMXFP4, {2, 80}), std::nullopt);
  EXPECT_EQ(checked_ggml_bytes(GgmlType::kIQ4_XS, {2, 512}), 2 * 2 * 136);
  EXPECT_EQ(checked_ggml_bytes(GgmlType::kIQ4_XS, {2, 96}), std::nullopt);
  EXPECT_EQ(checked_ggml_bytes(GgmlType::kF32, {}), 4);
  EXPECT_EQ(checked_ggml_bytes(GgmlType::kF32, {-1}), std::nullopt);
  EXPECT_EQ(find_ggml_type(4), std::nullopt);
  EXPECT_EQ(find_ggml_type(0xffffffff), std::nullopt);
}

}  // namespace
}  // namespace tandem
