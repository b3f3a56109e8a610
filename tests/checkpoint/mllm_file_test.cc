// .mllm files: read and written byte for byte, and hostile ones.
#include "checkpoint/mllm_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <random>
#include <string>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "support.h"
#include "tensor/half.h"

namespace tandem {
namespace {

using testing::error_of;

fs::path fixture(const std::string& name) {
  return testing::fixture("checkpoint/fixtures/" + name);
}

class MllmFile : public ::testing::Test {
 protected:
  std::string error(const std::string& bytes) {
    const fs::path path = scratch_ / "bad.mllm";
    write_text_file(path, bytes);
    return error_of([&] { open_mllm(path); });
  }
  void expect_error(const std::string& bytes, const std::string& reason) {
    const std::string text = error(bytes);
    EXPECT_NE(text.find(reason), std::string::npos) << text;
    EXPECT_EQ(text.find("[mllm] " + (scratch_ / "bad.mllm").string()), 0u) << text;
  }

  testing::ScratchFolder scratch_;
  const std::map<std::string, Tensor> tensors_ =
      SafetensorsFile::open(fixture("mllm.safetensors")).tensors;
};

TEST_F(MllmFile, ReadsBothVersions) {
  int in_file = 0;
  for (const int version : {1, 2}) {
    const auto store = open_mllm(fixture(fmt::format("v{}.mllm", version)));
    EXPECT_EQ(store->has_shapes(), version == 2);
    ASSERT_EQ(store->tensors().size(), tensors_.size());
    for (const auto& [name, want] : tensors_) {
      const Tensor got = store->load(name);
      EXPECT_EQ(got.dtype(), want.dtype()) << name;
      EXPECT_EQ(got.shape(), version == 2 ? want.shape() : Shape{want.elements()}) << name;
      EXPECT_TRUE(std::ranges::equal(got.bytes(), want.bytes())) << name;
      const bool aligned = got.file() != nullptr;
      EXPECT_EQ(got.identity().starts_with("memory"), !aligned) << name;
      in_file += aligned;
    }
  }
  EXPECT_GT(in_file, 0);
}

TEST_F(MllmFile, WritesTheSameBytes) {
  for (const int version : {1, 2}) {
    std::vector<MllmWriter::Entry> entries;
    for (const auto& [name, tensor] : tensors_)
      entries.push_back({name, *MllmWriter::type_of(tensor.dtype(), version), tensor.shape()});
    MllmWriter writer(scratch_ / "x.mllm", entries, version);
    std::size_t i = 0;
    for (const auto& [name, tensor] : tensors_) writer.write(i++, tensor.bytes());
    EXPECT_NE(error_of([&] { writer.write(i, {}); }), "");
    writer.finish();
    EXPECT_EQ(read_text_file(scratch_ / "x.mllm"),
              read_text_file(fixture(fmt::format("v{}.mllm", version))));
  }
}

TEST_F(MllmFile, TakesShapesFromWhoAsks) {
  fs::copy_file(fixture("v1.mllm"), scratch_ / "model.mllm");
  write_text_file(scratch_ / "config.json", "{}");
  for (const fs::path& path : {scratch_.path(), scratch_ / "model.mllm"}) {
    const Checkpoint checkpoint = Checkpoint::open(path);
    EXPECT_FALSE(checkpoint.has_shapes());
    const Tensor shaped = checkpoint.tensor("layer.0.weight", {2, 3});
    EXPECT_EQ(shaped.shape(), (Shape{2, 3}));
    EXPECT_EQ(shaped.file() != nullptr, checkpoint.load("layer.0.weight").file() != nullptr);
    EXPECT_EQ(std::get<FloatWeight>(checkpoint.linear("layer.0", 3, 2)).rows->stored()->shape(),
              (Shape{3, 2}));
    EXPECT_NE(error_of([&] {
                checkpoint.tensor("layer.0.weight", {2, 2});
              }).find("expected [2, 2], got [6]"),
              std::string::npos);
  }
  write_text_file(scratch_ / "other.json", R"({"model_type":"x"})");
  EXPECT_EQ(Checkpoint::open(scratch_ / "model.mllm", scratch_ / "other.json").config().size(), 1u);
}

TEST_F(MllmFile, KeepsQ4InFourBits) {
  std::vector<float> values(64);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) - 31;
  std::vector<std::byte> blocks(36);
  quantize_blocks(GgmlType::kQ4_0, values, blocks, "w");
  MllmWriter writer(scratch_ / "q.mllm",
                    {{"w.weight", MllmWriter::type_of(GgmlType::kQ4_0), {2, 32}}}, 1);
  writer.write(0, blocks);
  writer.finish();
  write_text_file(scratch_ / "config.json", "{}");
  const Checkpoint checkpoint = Checkpoint::open(scratch_ / "q.mllm");
  const Weight weight = checkpoint.linear("w", 2, 32);
  EXPECT_EQ(describe(weight), "int4 g32 [2, 32]");
  std::vector<float> want(64);
  dequantize_blocks(GgmlType::kQ4_0, blocks, want);
  EXPECT_EQ(dequantize_rows(weight, 0, 2), want);
  EXPECT_EQ(checkpoint.tensor("w.weight", {2, 32}).to_floats(), want);
}

// Rows that take turns, which version 1 holds without saying how many there are.
TEST_F(MllmFile, SeparatesInterleavedRows) {
  const auto fixture =
      SafetensorsFile::open(testing::fixture("checkpoint/fixtures/k_quants.safetensors")).tensors;
  std::vector<float> want(512);
  dequantize_blocks(GgmlType::kQ4_0, fixture.at("quantized.Q4_0").bytes(), want);
  write_text_file(scratch_ / "config.json", "{}");
  for (const int version : {1, 2})
    for (const auto& [type, name] : {std::pair{GgmlType::kQ4_0_4_4, "Q4_0_4_4"},
                                     {GgmlType::kQ4_0_4_8, "Q4_0_4_8"},
                                     {GgmlType::kQ4_0_8_8, "Q4_0_8_8"}}) {
      const fs::path path = scratch_ / "i.mllm";
      MllmWriter writer(path, {{"w.weight", MllmWriter::type_of(type), {8, 64}}}, version);
      writer.write(0, fixture.at("quantized." + std::string(name)).bytes());
      writer.finish();
      Checkpoint checkpoint = Checkpoint::open(path);
      EXPECT_EQ(checkpoint.tensors().at("w.weight").type, name);
      const Weight weight = checkpoint.linear("w", 8, 64);
      EXPECT_EQ(describe(weight), "int4 g32 [8, 64]");
      EXPECT_EQ(dequantize_rows(weight, 0, 8), want);
      const auto values = [&](const Tensor& tensor) {
        EXPECT_EQ(tensor.shape(), (Shape{8, 64}));
        return tensor.to_floats();
      };
      std::vector<float> halves = want;
      for (float& value : halves) value = f16_to_float(float_to_f16(value));
      EXPECT_EQ(values(checkpoint.tensor("w.weight", {8, 64})), halves);
      if (version == 1) {
        EXPECT_NE(error_of([&] { checkpoint.load("w.weight"); }).find("expected a matrix of them"),
                  std::string::npos);
        EXPECT_NE(error_of([&] { checkpoint.linear("w", 2, 256); }).find("got [2, 256]"),
                  std::string::npos);
        checkpoint.set_shapes({{"w.weight", {8, 64}}});
      }
      EXPECT_EQ(values(checkpoint.load("w.weight")), halves);
    }
}

TEST_F(MllmFile, RefusesBadHeaders) {
  const std::string v1 = read_text_file(fixture("v1.mllm"));
  const std::string v2 = read_text_file(fixture("v2.mllm"));
  const auto patched = [](std::string bytes, std::size_t at, auto value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
    return bytes;
  };
  expect_error("", "magic: expected 4 bytes");
  expect_error("hello", "expected magic 20012 (version 1) or 20890 (version 2)");
  expect_error(patched(v1, 4, ~0ull), "index: expected 18446744073709551615 bytes");
  expect_error(patched(v1, 12, -1), "a name's length: expected it from 0 up, got -1");
  expect_error(patched(v1, 12, 1 << 30), "a name: expected 1073741824 bytes");
  expect_error(patched(v1, 28, ~0ull), "layer.0.bias: 18446744073709551615 bytes at");
  expect_error(patched(v1, 36, ~0ull), "expected them within the");
  expect_error(patched(v1, 28, 7ull), "layer.0.bias: 7 bytes are not whole elements of F32");
  expect_error(patched(v1, 44, 999), "layer.0.bias: element type 999 is not read here");
  expect_error(patched(v2, 4, 3), "expected version 2, got 3");
  expect_error(patched(v2, 520, 0xffffffffu), "a descriptor: expected 352 bytes");
  expect_error(patched(v2, 524, ~0ull), "descriptors: byte 18446744073709551615 is beyond the end");
  expect_error(patched(v2, 532 + 24, 17ull), "expected 16 dimensions at most, got 17");
  expect_error(patched(v2, 532 + 32, -3), "F32 [-3] does not have 12 bytes");
  expect_error(patched(v2, 532 + 16, 532ull + 352 * 4 + 12),
               "layer.0.weight: overlaps layer.0.bias");
  std::string twice = v2;
  twice.replace(532 + 352 + 96, 256, v2, 532 + 96, 256);
  expect_error(twice, "layer.0.bias: appears twice");
}

TEST_F(MllmFile, MutationsNeverHurt) {
  std::mt19937 random(5);
  for (const char* name : {"v1.mllm", "v2.mllm"}) {
    const std::string whole = read_text_file(fixture(name));
    for (int i = 0; i < 300; ++i) {
      std::string changed = whole;
      if (i % 4 == 0) changed.resize(random() % whole.size());
      if (i % 4 != 0) changed[random() % whole.size()] = static_cast<char>(random());
      std::ofstream(scratch_ / "m.mllm", std::ios::binary) << changed;
      try {
        const auto store = open_mllm(scratch_ / "m.mllm");
        for (const auto& [key, stored] : store->tensors()) store->load(key);
      } catch (const Error&) {
      }
    }
  }
}

}  // namespace
}  // namespace tandem
