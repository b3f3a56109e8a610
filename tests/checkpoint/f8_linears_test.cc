// Weights of 8-bit floats, with scales as published checkpoints store them, against ml_dtypes and
// NumPy.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/float_rows.h"
#include "checkpoint/packed_linears.h"
#include "checkpoint/safetensors.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;

constexpr const char* kFp8 = R"({"quant_method":"fp8","activation_scheme":"dynamic"})";
constexpr const char* kBlocks =
    R"({"quant_method":"fp8","fmt":"e4m3","weight_block_size":[16,32],"scale_fmt":"ue8m0"})";

std::string compressed(const std::string& weights,
                       const std::string& format = R"("float-quantized")") {
  return R"({"quant_method":"compressed-tensors","format":)" + format +
         R"(,"kv_cache_scheme":null,"ignore":["lm_head"],"config_groups":{"group_0":{"targets":
         ["Linear"],"input_activations":{"num_bits":8,"type":"float"},"weights":)" +
         weights + "}}}";
}

class F8Linears : public ::testing::Test {
 protected:
  void SetUp() override {
    tensors_ =
        SafetensorsFile::open(testing::fixture("checkpoint/fixtures/f8.safetensors")).tensors;
  }

  // The fixture's tensors with a quantization_config.
  Checkpoint open(const std::string& quantization) const {
    write_safetensors(scratch_ / "model.safetensors", tensors_);
    write_text_file(
        scratch_ / "config.json",
        quantization.empty() ? "{}" : fmt::format("{{\"quantization_config\":{}}}", quantization));
    return Checkpoint::open(scratch_.path());
  }

  // Reads `module` as a Linear, as a tensor and as what is converted, all three as expected.
  void expect_values(const std::string& module, const std::string& quantization) {
    const Checkpoint checkpoint = open(quantization);
    const Shape shape = tensors_.at(module + ".expected").shape();
    const std::string name = module + ".weight";
    const std::vector<float> want = tensors_.at(module + ".expected").to_floats();
    const Weight weight = checkpoint.linear(module, shape[0], shape[1]);
    validate(weight, module);
    EXPECT_EQ(describe(weight), fmt::format("f16 [{}, {}]", shape[0], shape[1]));
    EXPECT_EQ(checkpoint.input_scale(module), 0);
    ASSERT_EQ(checkpoint.contents().at(name), shape);
    for (const std::vector<float>& got :
         {dequantize_rows(weight, 0, shape[0]), checkpoint.tensor(name, shape).to_floats(),
          FloatRows(checkpoint, name, shape).read(0, shape[0])}) {
      ASSERT_EQ(got.size(), want.size());
      for (std::size_t i = 0; i < want.size(); ++i)
        ASSERT_NEAR(got[i], want[i], std::max(0x1p-11f * std::abs(want[i]), 0x1p-25f))
            << module << " element " << i;
    }
  }

  void expect_refusal(const std::string& module, const std::string& quantization,
                      const std::string& reason) {
    const Shape shape = tensors_.at(module + ".expected").shape();
    const std::string text =
        error_of([&] { open(quantization).linear(module, shape[0], shape[1]); });
    EXPECT_NE(text.find(reason), std::string::npos) << text;
    EXPECT_EQ(text.find("[packed] "), 0u) << text;
  }

  testing::ScratchFolder scratch_;
  std::map<std::string, Tensor> tensors_;
};

TEST_F(F8Linears, EveryCode) {
  for (const char* name : {"e4m3", "e5m2"}) {
    const Tensor& codes = tensors_.at(std::string(name) + ".bytes");
    ASSERT_TRUE(is_f8(codes.dtype()));
    const std::vector<float> want = tensors_.at(std::string(name) + ".values").to_floats();
    for (const std::vector<float>& got : {codes.to_floats(), codes.to_f16().to_floats()}) {
      ASSERT_EQ(got.size(), 256u);
      for (std::size_t i = 0; i < 256; ++i) {
        if (std::isnan(want[i])) {
          EXPECT_TRUE(std::isnan(got[i])) << name << " " << i;
        } else {
          EXPECT_EQ(std::bit_cast<std::uint32_t>(got[i]), std::bit_cast<std::uint32_t>(want[i]))
              << name << " " << i;
        }
      }
    }
  }
}

// Without scales they are floats like others, mapped or not, also as the rows of a matrix.
TEST_F(F8Linears, WithoutScales) {
  tensors_.erase("tensor.weight_scale");
  const Checkpoint checkpoint = open("");
  EXPECT_EQ(checkpoint.tensors().at("tensor.weight").type, "F8_E4M3");
  EXPECT_EQ(checkpoint.tensors().at("tensor.weight").dtype, DType::kF16);
  EXPECT_EQ(checkpoint.tensors().at("tensor.weight").bytes, 24 * 40);
  const std::vector<float> want = tensors_.at("tensor.weight").to_floats();
  const Weight weight = checkpoint.linear("tensor", 24, 40);
  EXPECT_EQ(describe(weight), "f16 [24, 40]");
  EXPECT_EQ(dequantize_rows(weight, 0, 24), want);
  EXPECT_EQ(checkpoint.tensor("tensor.weight", {24, 40}).to_floats(), want);
  const Rows rows = stored_rows(tensors_.at("tensor.weight"));
  EXPECT_EQ(rows->dtype(), DType::kF16);
  EXPECT_EQ(rows->stored(), nullptr);
  std::vector<float> got(want.size());
  rows->read(0, got);
  EXPECT_EQ(got, want);
}

TEST_F(F8Linears, PerTensorAndChannel) {
  for (const char* module : {"tensor", "tensor1", "inverse", "channel", "channel1"}) {
    for (const std::string quantization :
         {kFp8, R"({"quant_method":"fp8","weight_block_size":null})",
          R"({"quant_method":"fbgemm_fp8","activation_scale_ub":1200.0})",
          R"({"quant_method":"modelopt","quant_algo":"FP8"})",
          R"({"quant_method":"quark","global_quant_config":{"weight":{"dtype":"fp8_e4m3"}}})", ""})
      expect_values(module, quantization);
    for (const char* strategy : {"tensor", "channel"})
      expect_values(module, compressed(fmt::format(
                                R"({{"num_bits":8,"type":"float","strategy":"{}"}})", strategy)));
  }
}

TEST_F(F8Linears, PerBlock) {
  for (const char* module : {"block", "block2", "tensor"}) {
    expect_values(module, kBlocks);
    expect_values(module, compressed(R"({"num_bits":8,"type":"float","strategy":"block",
                                         "block_structure":[16,32]})"));
  }
  // Groups along k are blocks of one row.
  tensors_["tensor.weight_scale"] = Tensor::from_floats(std::vector<float>(48, 0.25f), {24, 2});
  tensors_["tensor.expected"] = Tensor::from_floats(
      [&] {
        std::vector<float> values = tensors_.at("tensor.weight").to_floats();
        for (float& value : values) value *= 0.25f;
        return values;
      }(),
      {24, 40});
  expect_values("tensor", compressed(R"({"num_bits":8,"type":"float","strategy":"group",
                                         "group_size":20})"));
}

// Without weight_block_size the blocks are those of transformers' default, if the scales fit them.
TEST_F(F8Linears, PerBlockOfTheDefaultSize) {
  tensors_["tensor.weight_scale"] = Tensor::from_floats(std::vector{0.5f}, {1, 1});
  std::vector<float> values = tensors_.at("tensor.weight").to_floats();
  for (float& value : values) value *= 0.5f;
  tensors_["tensor.expected"] = Tensor::from_floats(values, {24, 40});
  expect_values("tensor", kFp8);
  std::byte* codes = nullptr;
  tensors_["wide.weight"] = Tensor::allocate(DType::kF8E4M3, {130, 300}, &codes);
  std::memset(codes, 0x38, 130 * 300);  // 1
  tensors_["wide.weight_scale_inv"] =
      Tensor::from_floats(std::vector{1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f}, {2, 3});
  std::vector<float> wide;
  for (int r = 0; r < 130; ++r)
    for (int c = 0; c < 300; ++c) wide.push_back(static_cast<float>(1 + r / 128 * 3 + c / 128));
  tensors_["wide.expected"] = Tensor::from_floats(wide, {130, 300});
  expect_values("wide", kFp8);
}

// Scales of inputs and of the KV cache are parts, no tensors of the model.
TEST_F(F8Linears, ScalesAreNoContents) {
  const std::map<std::string, Shape> contents = open(kBlocks).contents();
  EXPECT_TRUE(contents.contains("block.weight"));
  for (const auto& [name, shape] : contents)
    EXPECT_EQ(name.find("scale"), std::string::npos) << name;
}

TEST_F(F8Linears, RefusesScalesThatDoNotFit) {
  expect_refusal("block", kFp8, "expected [1], [40] or [40, 1]");
  expect_refusal("block", "", "has no weight_block_size, got F32 [3, 2]");
  expect_refusal("block", R"({"quant_method":"fp8","weight_block_size":[16,16]})",
                 "scales: expected [3, 4], got F32 [3, 2]");
  expect_refusal("channel", kBlocks, "scales: expected [2, 2], got BF16 [24, 1]");
  const auto with_scale = [&](Tensor scale, const std::string& reason) {
    tensors_["tensor.weight_scale"] = std::move(scale);
    expect_refusal("tensor", kFp8, reason);
  };
  with_scale(Tensor::from_floats(std::vector<float>(23, 1.0f), {23}), "got F32 [23]");
  with_scale(Tensor::from_floats(std::vector<float>(40, 1.0f), {1, 40}), "got F32 [1, 40]");
  with_scale(Tensor::from_floats({}, {0}), "got F32 [0]");
  with_scale(Tensor::from_floats(std::vector{std::nanf("")}, {}), "expected finite numbers");
  with_scale(Tensor::allocate(DType::kI32, {1}, nullptr), "scales: expected floats, got I32 [1]");
  tensors_["tensor.weight_zero_point"] = Tensor::from_floats(std::vector{1.0f}, {});
  with_scale(Tensor::from_floats(std::vector{1.0f}, {}), "zero points: expected zeros");
  tensors_.erase("tensor.weight_scale");
  expect_refusal("tensor", kFp8, "tensor: the scales are missing");
  SetUp();
  expect_refusal("tensor", R"({"quant_method":"awq"})", "is of 8-bit floats, which");
  EXPECT_NE(error_of([&] { open(kFp8).linear("tensor", 40, 24); }).find("expected [40, 24]"),
            std::string::npos);
}

TEST_F(F8Linears, RefusesSchemesByName) {
  const auto rejects = [&](const std::string& quantization, const std::string& reason) {
    expect_refusal("tensor", quantization, reason);
  };
  const std::string float8 = R"({"num_bits":8,"type":"float"})";
  rejects(R"({"quant_method":"fp8","fmt":"e3m4"})",
          R"(fmt: expected "e4m3" or "e5m2", got "e3m4")");
  rejects(R"({"quant_method":"fp8","weight_block_size":[0,128]})",
          "weight_block_size: expected [rows, columns] from 1 up, got [0,128]");
  rejects(R"({"quant_method":"fp8","weight_block_size":[128]})", "got [128]");
  rejects(R"({"quant_method":"modelopt","quant_algo":"NVFP4"})", R"(expected "FP8", got "NVFP4")");
  rejects(compressed(float8, R"("pack-quantized")"),
          R"(format: expected "float-quantized", got "pack-quantized")");
  rejects(compressed(R"({"num_bits":4,"type":"float"})"), "floats of 8 bits, got float of 4");
  rejects(compressed(R"({"num_bits":8,"type":"int"})"), "floats of 8 bits, got int of 8");
  rejects(compressed(R"({"num_bits":8,"type":"float","strategy":"tensor_group"})"),
          R"(strategy: expected "tensor", "channel", "block" or "group", got "tensor_group")");
  rejects(R"({"quant_method":"compressed-tensors","config_groups":{}})",
          "expected a group with weights");
}

// Codes in bytes with a scale are multiplied, too, when another format is written.
TEST_F(F8Linears, Int8IsConvertedWithItsScale) {
  std::byte* codes = nullptr;
  tensors_.clear();
  tensors_["m.weight"] = Tensor::allocate(DType::kI8, {1, 2}, &codes);
  codes[0] = std::byte{4}, codes[1] = std::byte{0xfe};
  tensors_["m.weight_scale"] = Tensor::from_floats(std::vector{0.5f}, {});
  const Checkpoint checkpoint =
      open(R"({"quant_method":"quark","global_quant_config":{"weight":{"dtype":"int8"}}})");
  EXPECT_EQ(FloatRows(checkpoint, "m.weight", {1, 2}).read(0, 1), (std::vector{2.0f, -1.0f}));
}

}  // namespace
}  // namespace tandem
