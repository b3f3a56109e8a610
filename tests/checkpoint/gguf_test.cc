// GGUF files: one from llama.cpp's Python package, and hostile ones.
#include "checkpoint/gguf/gguf.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "support.h"
#include "tensor/half.h"

namespace tandem {
namespace {

using testing::error_of;

fs::path sample() { return testing::fixture("checkpoint/fixtures/sample.gguf"); }

std::vector<double> numbers(const GgufTensor& tensor) {
  std::vector<double> values;
  const std::size_t width = tensor.type == GgmlType::kF32   ? 4
                            : tensor.type == GgmlType::kF16 ? 2
                                                            : 1;
  for (std::size_t at = 0; at < tensor.bytes.size(); at += width) {
    if (width == 4) {
      float value;
      std::memcpy(&value, tensor.bytes.data() + at, sizeof value);
      values.push_back(value);
    } else if (width == 2) {
      std::uint16_t value;
      std::memcpy(&value, tensor.bytes.data() + at, sizeof value);
      values.push_back(f16_to_float(value));
    } else {
      values.push_back(std::to_integer<int>(tensor.bytes[at]));
    }
  }
  return values;
}

TEST(Gguf, ReadsWhatThePythonPackageWrote) {
  const GgufFile file = GgufFile::open(sample());
  const Json want = read_json_file(sample().string() + ".json");
  EXPECT_EQ(file.version, 3u);
  for (const auto& [key, value] : want.at("metadata").items())
    EXPECT_EQ(file.metadata.at(key), value) << key;
  ASSERT_EQ(file.tensors.size(), want.at("tensors").size());
  for (const auto& [name, entry] : want.at("tensors").items()) {
    const GgufTensor& tensor = file.tensors.at(name);
    EXPECT_EQ(to_string(tensor.type), entry.at("type").get<std::string>()) << name;
    EXPECT_EQ(tensor.shape, entry.at("shape").get<Shape>()) << name;
    EXPECT_EQ(numbers(tensor), entry.at("values").get<std::vector<double>>()) << name;
  }
  EXPECT_TRUE(is_gguf(sample()));
  EXPECT_FALSE(is_gguf(sample().string() + ".json"));
}

// A file written value by value.
class GgufBuilder {
 public:
  template <typename T>
  GgufBuilder& number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  GgufBuilder& string(std::string_view text) {
    number<std::uint64_t>(text.size());
    bytes_ += text;
    return *this;
  }
  GgufBuilder& header(std::uint64_t tensors, std::uint64_t keys, std::uint32_t version = 3) {
    bytes_ += "GGUF";
    return number(version).number(tensors).number(keys);
  }
  GgufBuilder& tensor(std::string_view name, std::vector<std::uint64_t> shape, std::uint32_t type,
                      std::uint64_t offset) {
    string(name).number(static_cast<std::uint32_t>(shape.size()));
    for (const std::uint64_t dim : shape) number(dim);
    return number(type).number(offset);
  }
  // Padding to the data, then `count` bytes of it.
  GgufBuilder& data(std::size_t count, std::size_t alignment = 32) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment + count);
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

class BadGguf : public ::testing::Test {
 protected:
  void expect_error(const std::string& bytes, const std::string& reason) {
    const fs::path path = scratch_ / "bad.gguf";
    write_text_file(path, bytes);
    const std::string text = error_of([&] { GgufFile::open(path); });
    EXPECT_NE(text.find(reason), std::string::npos) << text;
    EXPECT_EQ(text.find("[gguf] " + path.string()), 0u) << text;
  }
  void expect_error(const GgufBuilder& file, const std::string& reason) {
    expect_error(file.bytes(), reason);
  }

  testing::ScratchFolder scratch_;
};

TEST_F(BadGguf, Headers) {
  expect_error("", "magic: expected 4 bytes at byte 0, there are 0");
  expect_error("GGML....", "begins with \"GGUF\"");
  expect_error(GgufBuilder().header(0, 0, 1), "expected version 2 or 3, got 1");
  expect_error(GgufBuilder().header(0, 0, 0x03000000), "big-endian");
  expect_error(GgufBuilder().header(0, ~0ull), "a key: expected 8 bytes");
  expect_error(GgufBuilder().header(~0ull, 0), "a tensor's name: expected 8 bytes");
}

TEST_F(BadGguf, Metadata) {
  expect_error(GgufBuilder().header(0, 1).number(~0ull), "a key: expected 18446744073709551615");
  expect_error(GgufBuilder().header(0, 1).string("k").number(13u),
               "value type from 0 to 12, got 13");
  const auto twice = GgufBuilder().header(0, 2).string("k").number(7u).number('\1').string("k");
  expect_error(GgufBuilder(twice).number(7u).number('\1'), "k: appears twice");
  expect_error(GgufBuilder().header(0, 1).string("k").number(9u).number(0u).number(~0ull),
               "k: an array of 18446744073709551615 values: expected 0 at most");
  GgufBuilder deep;
  deep.header(0, 1).string("k").number(9u);
  for (int i = 0; i < 100; ++i) deep.number(9u).number(1ull);
  expect_error(deep, "nested deeper than 4");
  for (const std::uint32_t bad : {0u, 1u, 4u, 24u, 1u << 21})
    expect_error(GgufBuilder().header(0, 1).string("general.alignment").number(4u).number(bad),
                 "general.alignment: expected a power of two");
}

TEST_F(BadGguf, Tensors) {
  const auto one = [](std::vector<std::uint64_t> shape, std::uint32_t type, std::uint64_t offset) {
    return GgufBuilder().header(1, 0).tensor("w", std::move(shape), type, offset).data(64);
  };
  expect_error(one({1, 1, 1, 1, 1}, 0, 0), "w: expected 4 dimensions at most, got 5");
  expect_error(one({4}, 99, 0), "w: element type 99 is not one");
  expect_error(one({~0ull}, 0, 0), "is negative, too large");
  expect_error(one({1ull << 40, 1ull << 40}, 0, 0), "is negative, too large");
  expect_error(one({33}, 2, 0), "w: Q4_0 [33] is negative, too large, or not made of blocks of 32");
  expect_error(one({33}, 20, 0), "w: IQ4_NL [33] is negative, too large, or not made of blocks of");
  expect_error(one({32}, 23, 0), "w: IQ4_XS [32] is negative, too large, or not made of blocks of");
  expect_error(one({16}, 39, 0), "w: MXFP4 [16] is negative, too large, or not made of blocks of");
  expect_error(one({32, 4}, 20, 0), "w: 72 bytes at 0: expected them within the 64 bytes of data");
  expect_error(one({256}, 23, 0), "w: 136 bytes at 0");
  expect_error(one({128}, 39, 0), "w: 68 bytes at 0");
  expect_error(one({4}, 0, 8), "w: offset 8 is not a multiple of the alignment 32");
  expect_error(one({17}, 0, 0), "w: 68 bytes at 0: expected them within the 64 bytes of data");
  expect_error(one({1}, 0, 64), "w: 4 bytes at 64");
  expect_error(one({1}, 0, ~31ull), "w: 4 bytes at 18446744073709551584");
  const auto two = GgufBuilder().header(2, 0).tensor("a", {9}, 0, 0);
  expect_error(GgufBuilder(two).tensor("b", {1}, 0, 32).data(64),
               "b: overlaps the tensor before it: begins at byte 32, expected 36");
  expect_error(GgufBuilder(two).tensor("a", {1}, 0, 64).data(128), "a: appears twice");
}

TEST_F(BadGguf, AnyTruncation) {
  const std::string whole = read_text_file(sample());
  const fs::path path = scratch_ / "cut.gguf";
  // The last bytes may be padding.
  for (std::size_t size = 0; size + 32 <= whole.size(); size += 31) {
    write_text_file(path, whole.substr(0, size));
    EXPECT_THROW(GgufFile::open(path), Error) << size;
  }
}

TEST_F(BadGguf, TakesStringsThatAreNotUtf8AndOddAlignments) {
  const fs::path path = scratch_ / "fine.gguf";
  write_text_file(path, GgufBuilder()
                            .header(1, 2, 2)
                            .string("bytes")
                            .number(8u)
                            .string("\xff\xfe")
                            .string("general.alignment")
                            .number(4u)
                            .number(64u)
                            .tensor("w", {2, 3}, 0, 64)
                            .data(64 + 24, 64)
                            .bytes());
  const GgufFile file = GgufFile::open(path);
  EXPECT_EQ(file.version, 2u);
  EXPECT_EQ(file.metadata.at("bytes").get<std::string>(), "\xff\xfe");
  EXPECT_EQ(file.tensors.at("w").shape, (Shape{3, 2}));
}

}  // namespace
}  // namespace tandem
