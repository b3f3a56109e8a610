// AWQ, GPTQ and Quark: weights packed by third-party scripts and tools, value by value.
#include "checkpoint/packed_linears.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <tuple>

#include "base/hash.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;

// With scales rounded to F16, as the fixtures' values have them.
std::vector<float> values_of(Weight weight) {
  validate(weight, "w");
  if (auto* groups = std::get_if<GroupCodes>(&weight)) groups->scales = groups->scales.to_f16();
  return dequantize_rows(weight, 0, output_channels(weight));
}

class PackedLinears : public ::testing::Test {
 protected:
  static PackedSettings settings(const std::string& quantization) {
    const Json config = parse_json(R"({"quantization_config":)" + quantization + "}", "config");
    return PackedSettings(JsonObject(config, "config.json"));
  }

  // The weight of `module` in the fixture, of which the values are compared.
  Weight read(const std::string& module, const PackedSettings& how) {
    const Shape shape = tensors_.at(module + ".expected").shape();
    const PlainStore store(tensors_);
    EXPECT_TRUE(is_packed(store, module));
    EXPECT_EQ(packed_shape(store, how, module), shape) << module;
    Weight weight = read_packed_linear(store, how, module, shape[0], shape[1], "file");
    const std::vector<float> want = tensors_.at(module + ".expected").to_floats();
    const std::vector<float> got = values_of(weight);
    EXPECT_EQ(got.size(), want.size());
    // What is dequantized is rounded to F16.
    const float tolerance = std::holds_alternative<GroupCodes>(weight) ? 0.0f : 0x1p-11f;
    for (std::size_t i = 0; i < want.size(); ++i)
      if (std::abs(got[i] - want[i]) > tolerance * std::abs(want[i])) {
        ADD_FAILURE() << module << " element " << i << ": " << got[i] << " for " << want[i];
        break;
      }
    return weight;
  }

  std::string error(const std::string& module, const PackedSettings& how) {
    const Shape shape = tensors_.at(module + ".expected").shape();
    return error_of(
        [&] { read_packed_linear(PlainStore(tensors_), how, module, shape[0], shape[1], "file"); });
  }

  std::map<std::string, Tensor> tensors_ =
      SafetensorsFile::open(testing::fixture("checkpoint/fixtures/packed.safetensors")).tensors;
  const PackedSettings awq_ = settings(R"({"quant_method":"awq","bits":4,"version":"gemm"})");
};

TEST_F(PackedLinears, ReadsAwq) {
  EXPECT_EQ(describe(read("awq.g128", awq_)), "int4 g128 [16, 256]");
  EXPECT_EQ(describe(read("awq.g64", awq_)), "int4 g64 [8, 192]");
  EXPECT_EQ(describe(read("awq.g32", awq_)), "int4 g32 [24, 96]");
  EXPECT_EQ(describe(read("awq.g256", awq_)), "int4 g256 [8, 512]");
  EXPECT_EQ(describe(read("awq.g16", awq_)), "int4 g16 [8, 64]");
  // Scales keep their type.
  EXPECT_EQ(std::get<GroupCodes>(read("awq.g32", awq_)).scales.dtype(), DType::kF32);
  EXPECT_EQ(std::get<GroupCodes>(read("awq.g64", awq_)).scales.dtype(), DType::kF16);
}

TEST_F(PackedLinears, ReadsGptq) {
  for (const int version : {1, 2}) {
    const std::string format = version == 1 ? "gptq" : "gptq_v2";
    for (const int bits : {2, 3, 4, 8}) {
      // transformers 5 calls it "format".
      const PackedSettings how =
          settings(fmt::format(R"({{"quant_method":"gptq","bits":{},"{}":"{}"}})", bits,
                               bits == 4 ? "format" : "checkpoint_format", format));
      const Weight weight = read(fmt::format("v{}.gptq{}", version, bits), how);
      EXPECT_EQ(describe(weight).substr(0, 4), bits == 4   ? "int4"
                                               : bits == 8 ? "int8"
                                                           : "f16 ")
          << bits;
      if (bits == 4) {
        EXPECT_EQ(describe(read(fmt::format("v{}.gptq4.act", version), how)), "f16 [16, 128]");
      }
    }
  }
}

// With "sym" every zero point is known, so that what is stored tells the version.
TEST_F(PackedLinears, TellsTheVersionOfGptqByItsZeroPoints) {
  constexpr std::int64_t kColumns = 32;
  for (const int bits : {2, 3, 4, 8}) {
    const int middle = 1 << (bits - 1);
    // Code 1 everywhere, so that each weight is 1 minus the zero point. `odd` is the zero point of
    // the last row.
    const auto store = [&](int zero, int odd) {
      std::byte* codes = nullptr;
      std::byte* zeros = nullptr;
      const std::int64_t words = (8 * bits + 31) / 32;
      tensors_.clear();
      tensors_["m.qweight"] = Tensor::allocate(DType::kI32, {kColumns * bits / 32, 8}, &codes);
      tensors_["m.qzeros"] = Tensor::allocate(DType::kI32, {1, words}, &zeros);
      tensors_["m.scales"] = Tensor::from_floats(std::vector<float>(8, 1.0f), {1, 8});
      std::vector<std::uint32_t> column(static_cast<std::size_t>(bits)),
          row(static_cast<std::size_t>(words));
      const auto set = [&](std::vector<std::uint32_t>& in, std::int64_t i, int code) {
        for (int b = 0; b < bits; ++b)
          if (((code >> b) & 1) != 0)
            in[static_cast<std::size_t>((i * bits + b) / 32)] |= 1U << ((i * bits + b) % 32);
      };
      for (std::int64_t c = 0; c < kColumns; ++c) set(column, c, 1);
      for (std::int64_t r = 0; r < 8; ++r) set(row, r, r == 7 ? odd : zero);
      for (std::size_t word = 0; word < column.size(); ++word)
        for (std::size_t r = 0; r < 8; ++r)
          std::memcpy(codes + (word * 8 + r) * 4, &column[word], 4);
      std::memcpy(zeros, row.data(), row.size() * 4);
    };
    const auto how = [&](const char* format, const char* sym) {
      return settings(
          fmt::format(R"({{"quant_method":"gptq","bits":{},"checkpoint_format":"{}","sym":{}}})",
                      bits, format, sym));
    };
    const auto weight = [&](const PackedSettings& with) {
      return values_of(read_packed_linear(PlainStore(tensors_), with, "m", 8, kColumns, "file"))[0];
    };
    const auto want = static_cast<float>(1 - middle);
    for (const char* format : {"gptq", "gptq_v2"}) {
      store(middle - 1, middle - 1);
      EXPECT_EQ(weight(how(format, "true")), want) << bits << format;
      store(middle, middle);
      EXPECT_EQ(weight(how(format, "true")), want) << bits << format;
      // Without it, the configuration's word is all there is.
      EXPECT_EQ(weight(how(format, "false")), std::string_view(format) == "gptq" ? want - 1 : want)
          << bits;
      for (const auto& [zero, odd] : {std::pair{middle, middle - 1},
                                      {middle - 1, middle},
                                      {middle - 2, middle - 2},
                                      {middle, 0}}) {
        store(zero, odd);
        const std::string text = error_of([&] { weight(how(format, "true")); });
        EXPECT_NE(
            text.find(fmt::format("[packed] file: m: zero points: \"sym\" is true, so all are "
                                  "{}: expected all stored as {} (gptq) or all as {} "
                                  "(gptq_v2), got ",
                                  middle, middle - 1, middle)),
            std::string::npos)
            << text;
      }
    }
  }
}

TEST_F(PackedLinears, ReadsQuarksOwnExports) {
  TANDEM_REQUIRE_SHARED("quark");
  const Json cases = read_json_file(testing::fixture("checkpoint/fixtures/quark.json"));
  for (const auto& [name, modules] : cases.items()) {
    const fs::path folder = testing::shared_data() / "quark" / name;
    const Checkpoint checkpoint = Checkpoint::open(folder);
    for (const auto& [module, want] : modules.items()) {
      EXPECT_TRUE(checkpoint.has(module + ".weight"));
      const Weight weight = checkpoint.linear(module, want["shape"][0], want["shape"][1]);
      EXPECT_TRUE(std::holds_alternative<GroupCodes>(weight)) << name << " " << module;
      const std::vector<float> values = values_of(weight);
      // 0 times a negative number is -0 in one order of operations and 0 in the other.
      std::vector<float> plain = values;
      for (float& value : plain) value = value == 0 ? 0 : value;
      EXPECT_EQ(content_hash(std::as_bytes(std::span(plain))), want["hash"].get<std::string>())
          << name << " " << module;
    }
  }
  const Checkpoint awq =
      Checkpoint::open(testing::shared_data() / "quark/awq_g128_float16_awqpack");
  // Norms are called ".qweight" there.
  EXPECT_TRUE(awq.has("model.layers.0.input_layernorm.weight"));
  EXPECT_EQ(awq.tensor("model.layers.0.input_layernorm.weight", {256}).dtype(), DType::kF16);
  EXPECT_FALSE(awq.contents().contains("model.layers.0.mlp.down_proj.scales"));
  EXPECT_EQ(awq.contents().at("model.layers.0.mlp.down_proj.weight"), (Shape{256, 768}));
}

TEST_F(PackedLinears, ReadsQuarksInt8) {
  const PackedSettings how =
      settings(R"({"quant_method":"quark","global_quant_config":{"weight":{"dtype":"int8"}}})");
  std::byte* codes = nullptr;
  tensors_.clear();
  tensors_["m.weight"] = Tensor::allocate(DType::kI8, {2, 3}, &codes);
  const std::int8_t values[] = {1, -2, 127, -127, 0, 5};
  std::memcpy(codes, values, sizeof values);
  tensors_["m.weight_scale"] = Tensor::from_floats(std::vector{0.5f}, {});
  tensors_["m.input_scale"] = Tensor::from_floats(std::vector{0.25f}, {});
  const Weight weight = read_packed_linear(PlainStore(tensors_), how, "m", 2, 3, "file");
  EXPECT_EQ(describe(weight), "int8 per tensor [2, 3]");
  EXPECT_TRUE(std::holds_alternative<ChannelCodes>(weight));
  validate_codes(weight, "m");
  EXPECT_EQ(values_of(weight), (std::vector<float>{0.5f, -1, 63.5f, -63.5f, 0, 2.5f}));
  codes[0] = std::byte{0x80};  // -128 is no code of ChannelCodes
  const Weight groups = read_packed_linear(PlainStore(tensors_), how, "m", 2, 3, "file");
  EXPECT_EQ(describe(groups), "int8 g3 [2, 3]");
  EXPECT_EQ(values_of(groups), (std::vector<float>{-64, -1, 63.5f, -63.5f, 0, 2.5f}));
}

TEST_F(PackedLinears, ReadsTheScaleOfTheInput) {
  std::byte* codes = nullptr;
  tensors_.clear();
  tensors_["m.weight"] = Tensor::allocate(DType::kI8, {2, 3}, &codes);
  std::memset(codes, 0, 6);
  tensors_["m.weight_scale"] = Tensor::from_floats(std::vector{0.5f}, {});
  const auto scale = [&] { return read_packed_input_scale(PlainStore(tensors_), "m", "file"); };
  EXPECT_EQ(scale(), 0.0f);
  tensors_["m.input_scale"] = Tensor::from_floats(std::vector{0.25f}, {});
  EXPECT_EQ(scale(), 0.25f);
  EXPECT_EQ(read_packed_input_scale(PlainStore(tensors_), "other", "file"), 0.0f);
  const auto rejects = [&](Tensor tensor, const std::string& reason) {
    tensors_["m.input_scale"] = std::move(tensor);
    EXPECT_EQ(error_of(scale), "[packed] file: m: input scale: expected " + reason);
  };
  rejects(Tensor::from_floats(std::vector{1.0f, 2.0f}, {2}), "one float, got F32 [2]");
  rejects(tensors_.at("m.weight"), "one float, got I8 [2, 3]");
  rejects(Tensor::from_floats(std::vector{-1.0f}, {1}), "a finite number from 0 up, got -1");
  rejects(Tensor::from_floats(std::vector{std::nanf("")}, {1}),
          "a finite number from 0 up, got nan");
  // A float weight has none, whatever lies beside it.
  tensors_["m.weight"] = Tensor::from_floats(std::vector<float>(6), {2, 3});
  tensors_["m.input_scale"] = Tensor::from_floats(std::vector{0.25f}, {});
  EXPECT_EQ(scale(), 0.0f);
}

TEST_F(PackedLinears, KeepsScalesThatF16Loses) {
  std::byte* scales = nullptr;
  Tensor tiny = Tensor::allocate(DType::kF32, tensors_.at("awq.g128.scales").shape(), &scales);
  for (std::int64_t i = 0; i < tiny.elements(); ++i) {
    const float scale = 1e-9f;
    std::memcpy(scales + i * 4, &scale, sizeof scale);
  }
  tensors_["awq.g128.scales"] = tiny;
  const Weight weight = read_packed_linear(PlainStore(tensors_), awq_, "awq.g128", 16, 256, "file");
  EXPECT_EQ(std::get<GroupCodes>(weight).scales.to_floats(), std::vector<float>(32, 1e-9F));
}

TEST_F(PackedLinears, RefusesWhatItDoesNotKnow) {
  const auto rejects = [](const std::string& config, const std::string& reason) {
    const std::string text = error_of([&] { settings(config); });
    EXPECT_NE(text.find(reason), std::string::npos) << text;
  };
  rejects(R"({"quant_method":"bitsandbytes"})", "expected \"awq\", \"gptq\", \"quark\", \"fp8\"");
  rejects(R"({"quant_method":"awq","version":"gemv"})", "expected 4 bits in the layout \"gemm\"");
  // transformers 5 calls both "format".
  rejects(R"({"quant_method":"awq","format":"gemv_fast"})", "expected 4 bits in the layout");
  rejects(R"({"quant_method":"gptq","format":"marlin"})", "format: expected \"gptq\"");
  rejects(R"({"quant_method":"gptq","bits":5})", "expected 2, 3, 4 or 8 bits, got 5");
  rejects(R"({"quant_method":"gptq","checkpoint_format":"marlin"})", "got \"marlin\"");
  rejects(R"({"quant_method":"quark","global_quant_config":{"weight":{"dtype":"mxfp6_e2m3"}}})",
          "got \"mxfp6_e2m3\"");
  rejects(R"({"quant_method":"quark","global_quant_config":{"weight":[]}})", "two stages");
  EXPECT_NE(error("awq.g128", PackedSettings()).find("does not say how"), std::string::npos);
}

// What AutoGPTQ and earlier versions of AutoAWQ write beside a config.json that says nothing.
class SeparateFile : public PackedLinears {
 protected:
  class Listener : public Observer {
   public:
    void warn(std::string_view message) override { warnings.emplace_back(message); }
    std::vector<std::string> warnings;
  };

  SeparateFile() { write_config("{}"); }

  void write_config(const std::string& text) { write_text_file(scratch_ / "config.json", text); }

  // A folder whose only Linear, of `weights`, is "m" of the fixture.
  Checkpoint open(const std::string& module, const std::string& weights = "model.safetensors") {
    std::map<std::string, Tensor> tensors;
    for (const auto& [name, tensor] : tensors_)
      if (name.starts_with(module + ".")) tensors.emplace("m" + name.substr(module.size()), tensor);
    write_safetensors(scratch_ / weights, tensors);
    return Checkpoint::open(scratch_.path(), {}, listener_);
  }

  void expect_values(const std::string& module, const Checkpoint& checkpoint) {
    const Tensor& want = tensors_.at(module + ".expected");
    const Weight weight = checkpoint.linear("m", want.dim(0), want.dim(1));
    EXPECT_EQ(values_of(weight), want.to_floats());
  }

  testing::ScratchFolder scratch_;
  Listener listener_;
};

TEST_F(SeparateFile, OfAutoGptq) {
  write_text_file(scratch_ / "quantize_config.json",
                  R"({"bits": 4, "group_size": 32, "damp_percent": 0.01, "desc_act": false,
                      "static_groups": false, "sym": false, "true_sequential": true,
                      "model_name_or_path": null, "model_file_base_name": "model"})");
  expect_values("v1.gptq4", open("v1.gptq4"));
  EXPECT_TRUE(listener_.warnings.empty());
  fs::remove(scratch_ / "quantize_config.json");
  EXPECT_NE(error_of([&] { open("v1.gptq4").linear("m", 16, 128); }).find("does not say how"),
            std::string::npos);
}

// A scale that is not a number would give finite, wrong logits.
TEST_F(SeparateFile, RefusesScalesThatAreNoNumbers) {
  for (const auto& [module, shape, method] :
       {std::tuple{"v2.gptq4", Shape{16, 128}, "gptq"}, {"awq.g128", Shape{16, 256}, "awq"}}) {
    write_config(fmt::format(R"({{"quantization_config":{{"quant_method":"{}","bits":4,
                                  "checkpoint_format":"gptq_v2"}}}})",
                             method));
    Tensor& scales = tensors_.at(std::string(module) + ".scales");
    std::vector<float> values = scales.to_floats();
    for (const float bad : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
      values[3] = bad;
      scales = Tensor::from_floats(values, scales.shape());
      const std::string text = error_of([&] { open(module).linear("m", shape[0], shape[1]); });
      EXPECT_NE(text.find("m: scales: expected finite numbers"), std::string::npos) << text;
    }
  }
}

TEST_F(SeparateFile, OfAutoAwq) {
  write_text_file(scratch_ / "quant_config.json",
                  R"({"zero_point": true, "q_group_size": 128, "w_bit": 4, "version": "GEMM"})");
  expect_values("awq.g128", open("awq.g128"));
  EXPECT_TRUE(listener_.warnings.empty());
  // The earlier names are known in config.json, too.
  fs::remove(scratch_ / "quant_config.json");
  write_config(
      R"({"quantization_config": {"quant_method": "awq", "w_bit": 4, "version": "GEMM"}})");
  expect_values("awq.g128", open("awq.g128"));
  write_config(R"({"quantization_config": {"quant_method": "awq", "w_bit": 8}})");
  EXPECT_NE(error_of([&] { open("awq.g128"); }).find("got 8 in \"gemm\""), std::string::npos);
}

TEST_F(SeparateFile, NamesTheWeights) {
  write_text_file(
      scratch_ / "quantize_config.json",
      R"({"bits": 4, "group_size": 32, "model_file_base_name": "gptq_model-4bit-32g"})");
  expect_values("v1.gptq4", open("v1.gptq4", "gptq_model-4bit-32g.safetensors"));
  write_text_file(scratch_ / "quantize_config.json",
                  R"({"bits": 4, "model_file_base_name": "../gptq_model-4bit-32g"})");
  EXPECT_NE(error_of([&] { Checkpoint::open(scratch_.path()); }).find("expected config.json with"),
            std::string::npos);
}

TEST_F(SeparateFile, YieldsToConfigJson) {
  write_config(R"({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}})");
  const auto separate = [&](const std::string& text) {
    listener_.warnings.clear();
    write_text_file(scratch_ / "quantize_config.json", text);
    expect_values("v1.gptq4", open("v1.gptq4"));
    return listener_.warnings;
  };
  EXPECT_TRUE(separate(R"({"bits": 4, "group_size": 32, "sym": true})").empty());
  const std::vector<std::string> warnings = separate(R"({"bits": 8, "group_size": 64})");
  ASSERT_EQ(warnings.size(), 2u);
  EXPECT_EQ(warnings[0],
            "[packed] " + (scratch_ / "quantize_config.json").string() +
                ": bits: is 8, but 4 in quantization_config in config.json, which is used");
  EXPECT_NE(warnings[1].find("group_size: is 64, but 32 in"), std::string::npos);
}

TEST_F(SeparateFile, MayBeAnything) {
  const auto error = [&](const std::string& text) {
    write_text_file(scratch_ / "quantize_config.json", text);
    return error_of([&] { open("v1.gptq4").linear("m", 16, 128); });
  };
  // Other tools' settings under the same name are none.
  for (const char* text : {"{}", "[]", R"({"per_channel": false, "reduce_range": false})"})
    EXPECT_NE(error(text).find("does not say how"), std::string::npos) << text;
  EXPECT_NE(error("{").find("quantize_config.json: line 1"), std::string::npos);
  const std::string file = (scratch_ / "quantize_config.json").string();
  EXPECT_EQ(error(R"({"bits": 5})"), "[packed] " + file + ": expected 2, 3, 4 or 8 bits, got 5");
  EXPECT_NE(error(R"({"bits": "four"})").find(file + ": bits"), std::string::npos);
  EXPECT_EQ(error(R"({"bits": 4, "is_marlin_format": true})"),
            "[packed] " + file + ": is_marlin_format: expected false, got true");
  EXPECT_NE(error(R"({"bits": 4, "quant_method": "hqq"})").find("got \"hqq\""), std::string::npos);
}

TEST_F(PackedLinears, RefusesPartsThatDoNotFit) {
  const std::map<std::string, Tensor> whole = tensors_;
  std::byte* data = nullptr;
  const auto rejects = [&](const std::string& part, std::optional<Tensor> tensor,
                           const std::string& reason, const std::string& module = "awq.g128",
                           const std::string& method = R"({"quant_method":"awq"})") {
    tensors_ = whole;
    if (tensor) {
      tensors_[module + part] = *tensor;
    } else {
      tensors_.erase(module + part);
    }
    const std::string text = error(module, settings(method));
    EXPECT_NE(text.find(reason), std::string::npos) << text;
  };
  const auto ints = [&](Shape shape, std::uint8_t fill = 0) {
    Tensor tensor = Tensor::allocate(DType::kI32, std::move(shape), &data);
    std::memset(data, fill, tensor.bytes().size());
    return tensor;
  };
  rejects(".scales", std::nullopt, "the scales are missing");
  rejects(".qzeros", std::nullopt, "the zero points are missing");
  rejects(".qweight", ints({256, 3}), "codes: expected [256, 2], got I32 [256, 3]");
  rejects(".qzeros", ints({2, 1}), "zero points: expected [2, 2], got I32 [2, 1]");
  rejects(".scales", ints({2, 16}), "scales: expected floats, got I32 [2, 16]");
  rejects(".scales", Tensor::from_floats(std::vector<float>(48), {3, 16}),
          "scales: expected [k / group, 16] with k = 256");
  const std::string gptq = R"({"quant_method":"gptq"})";
  rejects(".g_idx", ints({128}, 0xff), "g_idx: expected groups in [0, 4), got -1", "v1.gptq4",
          gptq);
  rejects(".g_idx", ints({127}), "g_idx: expected [128]", "v1.gptq4", gptq);
  rejects(".qweight", ints({15, 16}), "codes: expected [16, 16]", "v1.gptq4", gptq);
}

}  // namespace
}  // namespace tandem
