// Files that are written as torch.save writes them: read back here, and by Python's own modules.
#include "checkpoint/torch_writer.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/json.h"
#include "checkpoint/torch_file.h"
#include "checkpoint/zip_writer.h"
#include "piped_output.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

const std::vector<float> kMatrix = {1, 2.5F, -3, 4, 5, 6};
const std::vector<std::int8_t> kCodes = {-127, 0, 127, 3};

void write_dict(const fs::path& file) {
  TorchWriter writer(file, {{"m.weight", DType::kF32, {2, 3}},
                            {"m.weight.scale", DType::kF32, {}},
                            {"codes", DType::kI8, {4, 1}},
                            {"clip", DType::kBool, {}},
                            {"R_v", DType::kF64, {1}, true},
                            {"R_v", DType::kF64, {2}, true},
                            {"empty", DType::kI64, {0, 3}}});
  writer.write_rows(*stored_rows(Tensor::from_floats(kMatrix, {2, 3})));
  writer.write(bytes_of(std::vector<float>{0.25F}));
  writer.write(bytes_of(kCodes));
  writer.write(bytes_of(std::vector<std::uint8_t>{1}));
  writer.write(bytes_of(std::vector<double>{7}));
  writer.write(bytes_of(std::vector<double>{8, 9}));
  writer.write({});
  writer.finish();
}

TEST(TorchWriter, IsReadBack) {
  const testing::ScratchFolder scratch;
  write_dict(scratch / "a.pth");
  const auto store = open_torch_file(scratch / "a.pth");
  EXPECT_EQ(store->tensors().size(), 7U);
  EXPECT_EQ(store->load("m.weight").to_floats(), kMatrix);
  EXPECT_EQ(store->load("m.weight.scale").shape(), Shape{});
  const auto codes = store->load("codes").as<std::int8_t>();
  EXPECT_EQ(std::vector(codes.begin(), codes.end()), kCodes);
  EXPECT_EQ(store->load("R_v.0").as<double>()[0], 7);
  EXPECT_EQ(store->load("R_v.1").as<double>()[1], 9);
}

// Everything that PyTorch's reader relies on, checked by modules that know nothing of tandem.
TEST(TorchWriter, IsReadByPython) {
  const testing::ScratchFolder scratch;
  write_dict(scratch / "a.pth");
  const std::string command =
      fmt::format("python3 '{}' '{}'", testing::fixture("checkpoint/unpickle.py").string(),
                  (scratch / "a.pth").string());
  const testing::PipedOutput output = testing::piped_output(command);
  ASSERT_EQ(output.status, 0) << output.text;
  const Json json = parse_json(output.text, "unpickle.py");
  EXPECT_EQ(json["m.weight"]["values"], Json(kMatrix));
  EXPECT_EQ(json["m.weight"]["shape"], Json({2, 3}));
  EXPECT_EQ(json["m.weight.scale"]["shape"], Json::array());
  EXPECT_EQ(json["codes"]["values"], Json(kCodes));
  EXPECT_EQ(json["clip"]["dtype"], "BOOL");
  EXPECT_EQ(json["R_v"][1]["values"], Json({8, 9}));
  EXPECT_EQ(json["empty"]["shape"], Json({0, 3}));
}

TEST(TorchWriter, DataCanBeUsedInPlace) {
  const testing::ScratchFolder scratch;
  write_dict(scratch / "a.pth");
  const auto store = open_torch_file(scratch / "a.pth");
  for (const auto& [name, stored] : store->tensors()) {
    const auto address = reinterpret_cast<std::uintptr_t>(store->load(name).bytes().data());
    EXPECT_TRUE(stored.bytes == 0 || address % 8 == 0) << name;
  }
}

TEST(TorchWriter, RefusesWhatIsNotWhole) {
  const testing::ScratchFolder scratch;
  const fs::path file = scratch / "a.pth";
  const std::vector<float> one = {1};
  const auto write = [&](auto act) {
    return error_of([&] {
      TorchWriter writer(file, {{"a", DType::kF32, {1}}});
      act(writer);
      writer.finish();
    });
  };
  EXPECT_EQ(write([](TorchWriter&) {}),
            "[torch] " + file.string() + ": 0 of 1 tensors were written");
  EXPECT_EQ(write([](TorchWriter& writer) { writer.write({}); }),
            "[zip] " + file.string() + ": archive/data/0: 4 bytes are missing");
  EXPECT_EQ(write([](TorchWriter& writer) { writer.write(bytes_of(std::vector<float>(2))); }),
            "[zip] " + file.string() + ": archive/data/0: expected 4 bytes more at most, got 8");
  EXPECT_EQ(write([&](TorchWriter& writer) {
              writer.write(bytes_of(one));
              writer.write(bytes_of(one));
            }),
            "[torch] " + file.string() + ": all 1 tensors are written");
  EXPECT_EQ(error_of([&] { TorchWriter(file, {{"a", DType::kU32, {1}}}); }),
            "[torch] " + file.string() + ": a: PyTorch has no storage of U32");
  // Nothing is left of a file that was not finished.
  EXPECT_TRUE(fs::is_empty(scratch.path()));
}

}  // namespace
}  // namespace tandem
