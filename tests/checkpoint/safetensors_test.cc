// safetensors files: from the Python package, our own, and hostile ones.
#include "checkpoint/safetensors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/json.h"
#include "piped_output.h"
#include "support.h"
#include "tensor/half.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::ScratchFolder;

std::vector<double> as_numbers(const Tensor& tensor) {
  const auto collect = [](auto span) { return std::vector<double>(span.begin(), span.end()); };
  switch (tensor.dtype()) {
    case DType::kF64:
      return collect(tensor.as<double>());
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kF8E4M3:
    case DType::kF8E5M2:
      return collect(tensor.to_floats());
    case DType::kI8:
      return collect(tensor.as<std::int8_t>());
    case DType::kU8:
    case DType::kBool:
      return collect(tensor.as<std::uint8_t>());
    case DType::kI16:
      return collect(tensor.as<std::int16_t>());
    case DType::kU16:
      return collect(tensor.as<std::uint16_t>());
    case DType::kI32:
      return collect(tensor.as<std::int32_t>());
    case DType::kU32:
      return collect(tensor.as<std::uint32_t>());
    case DType::kI64:
      return collect(tensor.as<std::int64_t>());
    case DType::kU64:
      return collect(tensor.as<std::uint64_t>());
  }
  return {};
}

void expect_same(const std::map<std::string, Tensor>& tensors, const Json& expected) {
  ASSERT_EQ(tensors.size(), expected.size());
  for (const auto& [name, want] : expected.items()) {
    ASSERT_TRUE(tensors.contains(name)) << name;
    const Tensor& tensor = tensors.at(name);
    EXPECT_EQ(to_string(tensor.dtype()), want.at("dtype").get<std::string>()) << name;
    EXPECT_EQ(tensor.shape(), want.at("shape").get<Shape>()) << name;
    EXPECT_EQ(as_numbers(tensor), want.at("values").get<std::vector<double>>()) << name;
  }
}

TEST(Safetensors, ReadsWhatThePythonPackageWrote) {
  const auto file =
      SafetensorsFile::open(testing::fixture("checkpoint/fixtures/python.safetensors"));
  expect_same(file.tensors, read_json_file(testing::fixture("checkpoint/fixtures/python.json")));
  EXPECT_EQ(file.metadata,
            (std::map<std::string, std::string>{{"format", "pt"}, {"note", "déjà vu"}}));
}

// One tensor of each type, with sizes that would misalign a careless layout.
std::map<std::string, Tensor> assorted_tensors() {
  const std::array<std::byte, 24> bytes = {std::byte{1}, std::byte{2}, std::byte{3}};
  std::map<std::string, Tensor> tensors;
  for (const char* name : {"BOOL", "I8", "U8", "I16", "U16", "F16", "BF16", "I32", "U32", "F32",
                           "I64", "U64", "F64", "F8_E4M3", "F8_E5M2"}) {
    const DType dtype = dtype_from_string(name);
    std::byte* data = nullptr;
    const std::string key = std::string("a.") + name;
    tensors[key] = Tensor::allocate(dtype, {3, 1}, &data);
    std::memcpy(data, bytes.data(), tensors[key].bytes().size());
    if (dtype == DType::kBool) data[1] = data[2] = std::byte{1};
  }
  tensors["b \"é\""] = Tensor::from_floats(std::vector<float>{1.5f}, {});
  tensors["c"] = Tensor::from_floats({}, {2, 0});
  return tensors;
}

TEST(Safetensors, ReadsWhatItWrote) {
  const ScratchFolder folder;
  const auto tensors = assorted_tensors();
  write_safetensors(folder / "x.safetensors", tensors, {{"k", "v"}});
  const auto file = SafetensorsFile::open(folder / "x.safetensors");
  EXPECT_EQ(file.metadata.at("k"), "v");
  ASSERT_EQ(file.tensors.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const Tensor& got = file.tensors.at(name);
    EXPECT_EQ(got.dtype(), tensor.dtype());
    EXPECT_EQ(got.shape(), tensor.shape());
    EXPECT_FALSE(got.empty());
    EXPECT_TRUE(std::ranges::equal(got.bytes(), tensor.bytes())) << name;
  }
  write_safetensors(folder / "y.safetensors", {});
  EXPECT_TRUE(SafetensorsFile::open(folder / "y.safetensors").tensors.empty());
}

TEST(Safetensors, ReadsAMappingThatIsOpenAlready) {
  const ScratchFolder folder;
  write_safetensors(folder / "x.safetensors", assorted_tensors());
  const auto mapping = MappedFile::open(folder / "x.safetensors", "hash");
  // Another file by now; the mapping is what counts.
  write_safetensors(folder / "x.safetensors", {});
  const auto file = SafetensorsFile::open(mapping);
  ASSERT_EQ(file.tensors.size(), assorted_tensors().size());
  std::set<std::string> identities;
  for (const auto& [name, tensor] : file.tensors) {
    EXPECT_EQ(tensor.file(), mapping.get());
    EXPECT_TRUE(tensor.identity().starts_with("hash@")) << tensor.identity();
    EXPECT_TRUE(identities.insert(tensor.identity()).second) << name;
  }
}

// What a command prints, or nothing if it fails.
std::string output_of(const std::string& command) {
  const testing::PipedOutput output = testing::piped_output(command + " 2>/dev/null");
  return output.status == 0 ? output.text : std::string();
}

TEST(Safetensors, PythonPackageReadsWhatWeWrote) {
  const char* chosen = std::getenv("TANDEM_TEST_PYTHON");
  const std::string python = chosen != nullptr ? chosen : "python3";
  const ScratchFolder folder;
  const fs::path path = folder / "x.safetensors";
  const auto tensors = assorted_tensors();
  write_safetensors(path, tensors, {{"k", "déjà"}});
  const std::string script = testing::fixture("checkpoint/read_back.py").string();
  const std::string text = output_of(python + " '" + script + "' '" + path.string() + "'");
  if (text.empty() && output_of(python + " -c 'import safetensors, torch; print(1)'").empty())
    GTEST_SKIP() << python
                 << " has no safetensors and torch (set TANDEM_TEST_PYTHON to one that has)";
  ASSERT_FALSE(text.empty());
  const Json json = parse_json(text, "read_back.py");
  EXPECT_EQ(json["metadata"]["k"], "déjà");
  expect_same(tensors, json["tensors"]);
}

TEST(SafetensorsWriter, WritesPieceByPieceInTheOrderGiven) {
  const ScratchFolder folder;
  const fs::path path = folder / "x.safetensors";
  const std::vector<std::uint8_t> small = {1, 2, 3};
  const std::vector<float> wide = {1.5f, -2.0f};
  {
    SafetensorsWriter writer(path, {{"small", DType::kU8, {3}}, {"wide", DType::kF32, {2}}});
    EXPECT_NE(error_of([&] {
                writer.write("wide", std::as_bytes(std::span(wide)));
              }).find("expected tensor \"small\""),
              std::string::npos);
    EXPECT_NE(error_of([&] {
                writer.write("small", std::as_bytes(std::span(wide)));
              }).find("expected 3 bytes, got 8"),
              std::string::npos);
    writer.write("small", std::as_bytes(std::span(small)));
    EXPECT_NE(error_of([&] { writer.finish(); }).find("1 of 2 tensors were written"),
              std::string::npos);
    writer.write("wide", std::as_bytes(std::span(wide)));
    EXPECT_NE(error_of([&] {
                writer.write("wide", std::as_bytes(std::span(wide)));
              }).find("written already"),
              std::string::npos);
    EXPECT_FALSE(fs::exists(path));
    writer.finish();
  }
  const auto file = SafetensorsFile::open(path);
  EXPECT_EQ(file.tensors.at("wide").to_floats(), wide);
  EXPECT_EQ(file.tensors.at("small").as<std::uint8_t>()[2], 3);
}

TEST(SafetensorsWriter, LeavesNothingIfNotFinished) {
  const ScratchFolder folder;
  {
    SafetensorsWriter writer(folder / "x.safetensors", {{"a", DType::kU8, {3}}});
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(SafetensorsWriter, RefusesImpossibleEntries) {
  const ScratchFolder folder;
  const auto message = [&](std::vector<SafetensorsWriter::Entry> entries) {
    return error_of(
        [&] { SafetensorsWriter writer(folder / "x.safetensors", std::move(entries)); });
  };
  EXPECT_NE(
      message({{"a", DType::kU8, {1}}, {"a", DType::kU8, {1}}}).find("the name \"a\" is taken"),
      std::string::npos);
  EXPECT_FALSE(message({{"__metadata__", DType::kU8, {1}}}).empty());
  EXPECT_FALSE(message({{"a", DType::kU8, {-1}}}).empty());
  EXPECT_FALSE(message({{"a", DType::kF64, {std::int64_t{1} << 62}}}).empty());
  EXPECT_FALSE(message({{"a\xff", DType::kU8, {1}}}).empty());
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

class HostileSafetensors : public ::testing::Test {
 protected:
  // The error for a file with this header, its length as given, and `data` zero bytes.
  std::string message(const std::string& header, std::size_t data, std::uint64_t length) {
    std::string file(8, '\0');
    for (std::size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(length >> (8 * i));
    return message_of_file(file + header + std::string(data, '\0'));
  }
  std::string message(const std::string& header, std::size_t data) {
    return message(header, data, header.size());
  }

  // Without the flush to disk of write_text_file(), or of file systems that flush on replacing a
  // file: it would take too long for thousands of files.
  void write_plainly(const std::string& bytes) {
    fs::remove(path_);
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bytes;
  }

  std::string message_of_file(const std::string& bytes) {
    write_plainly(bytes);
    const std::string text = error_of([&] { SafetensorsFile::open(path_); });
    EXPECT_NE(text.find(path_.string()), std::string::npos) << text;
    EXPECT_LT(text.size(), 600u);
    return text;
  }

  void expect(const std::string& header, std::size_t data, const std::string& reason) {
    const std::string text = message(header, data);
    EXPECT_NE(text.find(reason), std::string::npos) << text;
  }

  ScratchFolder folder_;
  fs::path path_ = folder_ / "x.safetensors";
};

TEST_F(HostileSafetensors, HeaderLength) {
  EXPECT_NE(message_of_file("").find("file has 0"), std::string::npos);
  EXPECT_NE(message_of_file("1234567").find("file has 7"), std::string::npos);
  EXPECT_NE(message("{}", 0, 3).find("header is 3 bytes, file has 2"), std::string::npos);
  EXPECT_NE(message("{}", 0, ~std::uint64_t{0}).find("expected 100000000 at most"),
            std::string::npos);
  EXPECT_NE(message("{}", 0, ~std::uint64_t{0} - 6).find("at most"), std::string::npos);
  EXPECT_NE(message("{}", 0, 99999999).find("file has 2"), std::string::npos);
  EXPECT_FALSE(message("{}", 0, 0).empty());
  EXPECT_FALSE(message("{}", 0, 1).empty());
}

TEST_F(HostileSafetensors, HeaderText) {
  expect("nothing", 0, "line 1, column 2");
  expect("[]", 0, "expected an object, got an array");
  expect("7", 0, "expected an object");
  expect(std::string(1000000, '['), 0, "nested deeper than 128");
  expect(R"({"a":7})", 0, "a: expected an object, got 7");
  expect(R"({"a":{}})", 0, "a.dtype: is missing");
  expect(R"({"a":null})", 0, "a: is missing");
  expect("{\"\xff\":{}}", 0, "line 1");
  expect(R"({"__metadata__":{"a":1}})", 0, "__metadata__.a: expected a string, got 1");
  expect(R"({"__metadata__":[]})", 0, "__metadata__: expected an object");
  expect(
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
      1, "\"a\" appears twice");
}

TEST_F(HostileSafetensors, TypesAndShapes) {
  // What can't be read lies within the data like everything else.
  expect(R"({"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}})", 1, "within the 1 bytes");
  expect(R"({"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}})", 3, "tensors end at byte 2");
  expect(R"({"a":{"dtype":"F4","shape":"x","data_offsets":[0,2]}})", 2, "a: shape: expected");
  expect(R"({"a":{"dtype":"F4","data_offsets":[0,2]}})", 2, "a.shape: is missing");
  expect(R"({"a":{"dtype":"F4","shape":[4]}})", 2, "a.data_offsets: is missing");
  expect(R"({"a":{"dtype":8,"shape":[1],"data_offsets":[0,1]}})", 1,
         "a.dtype: expected a string, got 8");
  expect(R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1, "a.shape: is missing");
  expect(R"({"a":{"dtype":"U8","shape":1,"data_offsets":[0,1]}})", 1,
         "a: shape: expected an array");
  expect(R"({"a":{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}})", 1, "a.shape: expected");
  expect(R"({"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", 1, "a.shape: expected");
  expect(R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", 1, "negative or too large");
  expect(R"({"a":{"dtype":"U8","shape":[-1,-1],"data_offsets":[0,1]}})", 1,
         "negative or too large");
  expect(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
         "negative or too large");
  expect(R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,1]}})", 1,
         "a.shape: expected");
  expect(R"({"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,12]}})", 12,
         "F32 [2, 2] has 16 bytes, data_offsets give 12");
}

TEST_F(HostileSafetensors, Offsets) {
  expect(R"({"a":{"dtype":"U8","shape":[1]}})", 1, "a.data_offsets: is missing");
  for (const char* offsets :
       {"[0]", "[0,1,2]", "[1,0]", "[-1,0]", "[0,3]", "[9223372036854775806,9223372036854775807]"})
    expect(std::string(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":)") + offsets + "}}", 2,
           "data_offsets: expected [begin, end] within the 2 bytes of data");
  expect(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":"x"}})", 1, "a.data_offsets: expected");
  expect(
      R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
      3, "b: overlaps the tensor before it");
  expect(
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
      3, "b: leaves a hole after the tensor before it");
  expect(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2,
         "begins at byte 1, expected 0");
  expect(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 2,
         "end at byte 1 of the data, file has 2");
  expect("{}", 1, "end at byte 0");
}

TEST_F(HostileSafetensors, MisalignedDataIsReadable) {
  const std::string header =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})";
  std::string file(8, '\0');
  file[0] = static_cast<char>(header.size());
  const float value = 1.25f;
  file += header + "x" + std::string(reinterpret_cast<const char*>(&value), 4);
  write_plainly(file);
  const Tensor tensor = SafetensorsFile::open(path_).tensors.at("b");
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.bytes().data()) % 4, 0u);
  EXPECT_EQ(tensor.as<float>()[0], 1.25f);
  EXPECT_EQ(tensor.file(), nullptr);
}

// Any change of any byte gives tensors that lie within the file, or an Error.
TEST_F(HostileSafetensors, MutatedFilesNeverHurt) {
  const std::string seed =
      read_text_file(testing::fixture("checkpoint/fixtures/python.safetensors"));
  std::mt19937 random(11);
  int accepted = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = seed;
    for (auto edits = 1 + random() % 3; edits > 0; --edits) {
      const std::size_t at = random() % (random() % 4 == 0 ? 8 : bytes.size());
      switch (random() % 3) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes[at] = "0123456789,[]{}\""[random() % 16];
          break;
        default:
          bytes.erase(at, 1 + random() % 9);
          break;
      }
      if (bytes.size() < 16) bytes = seed;
    }
    write_plainly(bytes);
    try {
      const auto opened = SafetensorsFile::open(path_);
      double sum = 0;
      for (const auto& [name, tensor] : opened.tensors)
        for (const std::byte b : tensor.bytes())
          sum += static_cast<double>(b);  // touches every byte
      EXPECT_GE(sum, 0);
      ++accepted;
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == ErrorCode::kFormat || error.code() == ErrorCode::kUnsupported ||
                  error.code() == ErrorCode::kNotFound)
          << error.what();
    }
  }
  EXPECT_GT(accepted, 10);
}

}  // namespace
}  // namespace tandem
