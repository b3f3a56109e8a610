// Element types and tensors.
#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "base/files.h"
#include "support.h"
#include "tensor/half.h"

namespace tandem {
namespace {

using testing::error_of;

TEST(DType, NamesAndSizesAgree) {
  const std::vector<std::pair<std::string, std::size_t>> expected = {
      {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F64", 8},     {"I8", 1},
      {"U8", 1},  {"I16", 2}, {"U16", 2},  {"I32", 4},     {"U32", 4},
      {"I64", 8}, {"U64", 8}, {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};
  for (const auto& [name, size] : expected) {
    EXPECT_EQ(to_string(dtype_from_string(name)), name);
    EXPECT_EQ(size_of(dtype_from_string(name)), size);
    EXPECT_EQ(is_float(dtype_from_string(name)), name == "F32" || name == "F16" || name == "BF16" ||
                                                     name == "F64" || name.starts_with("F8_"));
  }
  EXPECT_NE(error_of([] { dtype_from_string("F4"); }).find("\"F4\" is not supported"),
            std::string::npos);
  EXPECT_FALSE(error_of([] { dtype_from_string(""); }).empty());
}

TEST(Shape, PrintsAndCounts) {
  EXPECT_EQ(to_string(Shape{2048, 8192}), "[2048, 8192]");
  EXPECT_EQ(to_string(Shape{}), "[]");
  EXPECT_EQ(element_count({}), 1);
  EXPECT_EQ(element_count({3, 0, 5}), 0);
}

TEST(Shape, BytesOfHostileShapesAreRefused) {
  constexpr auto kMax = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(checked_bytes(DType::kF32, {2, 3}), 24);
  EXPECT_EQ(checked_bytes(DType::kF64, {}), 8);
  EXPECT_EQ(checked_bytes(DType::kI8, {kMax}), kMax);
  EXPECT_EQ(checked_bytes(DType::kF16, {4, 0}), 0);
  EXPECT_FALSE(checked_bytes(DType::kF16, {kMax}));
  EXPECT_FALSE(checked_bytes(DType::kI8, {-1}));
  EXPECT_FALSE(checked_bytes(DType::kI8, {-1, -1}));
  EXPECT_FALSE(checked_bytes(DType::kI8, {std::int64_t{1} << 32, std::int64_t{1} << 32}));
  EXPECT_FALSE(checked_bytes(DType::kI8, {std::int64_t{1} << 32, std::int64_t{1} << 32, 0}));
  EXPECT_FALSE(checked_bytes(DType::kI8, {0, std::int64_t{1} << 32, std::int64_t{1} << 32}));
}

TEST(Tensor, DefaultIsNoTensor) {
  const Tensor tensor;
  EXPECT_TRUE(tensor.empty());
  EXPECT_TRUE(tensor.bytes().empty());
  EXPECT_TRUE(tensor.as<float>().empty());
  EXPECT_TRUE(tensor.to_floats().empty());
}

TEST(Tensor, AllocatesAlignedMemory) {
  for (const std::int64_t count : {0, 1, 63, 64, 1000}) {
    std::byte* data = nullptr;
    const Tensor tensor = Tensor::allocate(DType::kU8, {count}, &data);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(data) % 64, 0u);
    EXPECT_FALSE(tensor.empty());
    EXPECT_EQ(tensor.bytes().size(), static_cast<std::size_t>(count));
    std::memset(data, 7, static_cast<std::size_t>(count));
  }
  EXPECT_FALSE(error_of([] { Tensor::allocate(DType::kF32, {-1}, nullptr); }).empty());
  EXPECT_FALSE(error_of([] {
                 Tensor::allocate(DType::kF32, {std::numeric_limits<std::int64_t>::max()}, nullptr);
               }).empty());
}

TEST(Tensor, SharesTheMemoryOfItsOwner) {
  auto values = std::make_shared<std::vector<float>>(std::vector<float>{1, 2, 3, 4, 5, 6});
  const std::weak_ptr<std::vector<float>> watch = values;
  Tensor rows;
  {
    const Tensor tensor(DType::kF32, {3, 2}, std::as_bytes(std::span(*values)), values);
    values.reset();
    rows = tensor.rows(1, 2);
    EXPECT_EQ(tensor.dim(0), 3);
    EXPECT_EQ(static_cast<const void*>(rows.bytes().data()), tensor.as<float>().data() + 2);
  }
  EXPECT_FALSE(watch.expired());
  EXPECT_EQ(rows.to_floats(), (std::vector<float>{3, 4, 5, 6}));
  rows = Tensor();
  EXPECT_TRUE(watch.expired());
}

TEST(Tensor, IsKnownByItsPlaceInAFile) {
  const testing::ScratchFolder folder;
  write_text_file(folder / "a", "0123456789abcdef");
  auto file = MappedFile::open(folder / "a", "name");
  const MappedFile* mapping = file.get();
  const auto bytes = file->bytes();
  const std::weak_ptr<const MappedFile> watch = file;
  Tensor tensor(DType::kF32, {3, 1}, bytes.subspan(4, 12), file);
  file.reset();
  EXPECT_EQ(tensor.file(), mapping);
  EXPECT_EQ(tensor.identity(), "name@4+12");
  const Tensor rows = tensor.rows(1, 2);
  EXPECT_EQ(rows.file(), mapping);
  EXPECT_EQ(rows.identity(), "name@8+8");
  // The bytes are named, not what they are taken for.
  EXPECT_EQ(rows.view_as(DType::kU8, {8}).identity(), rows.identity());
  EXPECT_EQ(tensor.rows(1, 0).identity(), tensor.rows(2, 0).identity());
  EXPECT_EQ(tensor.gather_rows(std::vector<std::int64_t>{0, 1}).file(), nullptr);
  tensor = Tensor();
  EXPECT_FALSE(watch.expired());
}

TEST(Tensor, OfItsOwnMemoryIsNamedForTheProcess) {
  const Tensor tensor = Tensor::from_floats(std::vector<float>{1, 2}, {2});
  EXPECT_EQ(tensor.file(), nullptr);
  // Named for as long as the process runs, and never like another.
  EXPECT_TRUE(tensor.identity().starts_with("memory ")) << tensor.identity();
  EXPECT_EQ(Tensor(tensor).identity(), tensor.identity());
  EXPECT_NE(tensor.rows(0, 1).identity(), tensor.identity());
  EXPECT_NE(Tensor::from_floats(tensor.to_floats(), tensor.shape()).identity(), tensor.identity());
  tensor.release();
  EXPECT_EQ(Tensor().identity(), "");
  const std::array<std::byte, 4> bytes{};
  EXPECT_EQ(Tensor(DType::kF32, {1}, bytes, nullptr).identity(), "");
  EXPECT_EQ(Tensor(DType::kF32, {1}, bytes, std::shared_ptr<const MappedFile>()).identity(), "");
}

TEST(Tensor, RefusesBytesOutsideItsFile) {
  const testing::ScratchFolder folder;
  write_text_file(folder / "a", "01234567");
  const auto file = MappedFile::open(folder / "a");
  const std::array<std::byte, 4> elsewhere{};
  EXPECT_NE(
      error_of([&] { Tensor(DType::kF32, {1}, elsewhere, file); }).find("within the mapped file"),
      std::string::npos);
  const std::span beyond(file->bytes().data() + 6, 4);
  EXPECT_FALSE(error_of([&] { Tensor(DType::kU8, {4}, beyond, file); }).empty());
  EXPECT_EQ(Tensor(DType::kF32, {0}, {}, file).file(), file.get());
}

TEST(Tensor, ViewsItsBytesAsOtherElements) {
  const Tensor tensor = Tensor::from_floats(std::vector<float>{1, 2, 3, 4}, {4});
  const Tensor square = tensor.view_as(DType::kF32, {2, 2});
  EXPECT_EQ(square.shape(), (Shape{2, 2}));
  EXPECT_EQ(square.bytes().data(), tensor.bytes().data());
  EXPECT_EQ(tensor.view_as(DType::kU16, {8}).as<std::uint16_t>()[1], 0x3f80);
  EXPECT_NE(error_of([&] { tensor.view_as(DType::kF32, {3}); }).find("do not fill F32 [3]"),
            std::string::npos);
  EXPECT_FALSE(error_of([&] { tensor.view_as(DType::kF32, {-4}); }).empty());
  EXPECT_FALSE(error_of([] { Tensor().view_as(DType::kF32, {0}); }).empty());
  const Tensor odd = tensor.view_as(DType::kU8, {16}).rows(1, 8);
  EXPECT_NE(error_of([&] { odd.view_as(DType::kF32, {2}); }).find("is not aligned for F32"),
            std::string::npos);
}

TEST(Tensor, RefusesBytesThatDoNotFit) {
  const std::array<std::byte, 7> bytes{};
  EXPECT_NE(error_of([&] {
              Tensor(DType::kF32, {2}, bytes, nullptr);
            }).find("F32 [2] has 8 bytes, got 7"),
            std::string::npos);
  EXPECT_FALSE(error_of([&] { Tensor(DType::kU8, {-7}, bytes, nullptr); }).empty());
  EXPECT_FALSE(error_of([] { Tensor::from_floats(std::vector<float>(3), {2, 2}); }).empty());
}

TEST(Tensor, RefusesRowsThatDoNotExist) {
  const Tensor tensor = Tensor::from_floats(std::vector<float>(6), {3, 2});
  EXPECT_EQ(tensor.rows(3, 0).elements(), 0);
  EXPECT_FALSE(tensor.rows(3, 0).empty());
  for (const auto& [begin, count] : {std::pair<std::int64_t, std::int64_t>{-1, 1},
                                     {0, 4},
                                     {4, 0},
                                     {2, -1},
                                     {1, std::numeric_limits<std::int64_t>::max()}})
    EXPECT_FALSE(error_of([&] { tensor.rows(begin, count); }).empty());
  EXPECT_FALSE(
      error_of([&] { Tensor::from_floats(std::vector<float>(1), {}).rows(0, 1); }).empty());
}

TEST(Tensor, ConvertsEveryFloatType) {
  const std::vector<double> values = {0.0, -1.5, 3.0, 0x1p-20, 1000.0};
  const std::vector<float> expected(values.begin(), values.end());
  std::vector<std::uint16_t> f16, bf16;
  for (const float value : expected) {
    f16.push_back(float_to_f16(value));
    bf16.push_back(float_to_bf16(value));
  }
  EXPECT_EQ(Tensor(DType::kF64, {5}, std::as_bytes(std::span(values)), nullptr).to_floats(),
            expected);
  EXPECT_EQ(Tensor(DType::kF16, {5}, std::as_bytes(std::span(f16)), nullptr).to_floats(), expected);
  EXPECT_EQ(Tensor(DType::kBF16, {5}, std::as_bytes(std::span(bf16)), nullptr).to_floats(),
            expected);
  EXPECT_EQ(Tensor::from_floats(expected, {5, 1}).to_floats(), expected);

  std::array<float, 2> part{};
  Tensor::from_floats(expected, {5}).copy_floats(3, part);
  EXPECT_EQ(part[1], 1000.0f);
  EXPECT_FALSE(error_of([&] { Tensor::from_floats(expected, {5}).copy_floats(4, part); }).empty());
  EXPECT_FALSE(error_of([&] { Tensor::from_floats(expected, {5}).copy_floats(-1, part); }).empty());
  const std::array<std::byte, 2> codes{};
  EXPECT_NE(error_of([&] {
              Tensor(DType::kI8, {2}, codes, nullptr).to_floats();
            }).find("expected a float tensor"),
            std::string::npos);
}

}  // namespace
}  // namespace tandem
