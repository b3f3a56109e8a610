// Checkpoints of torch.save: files written by PyTorch, and hostile ones.
#include "checkpoint/torch_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <random>
#include <string>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/pickle.h"
#include "checkpoint/safetensors.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;

fs::path fixture(const std::string& name) {
  return testing::fixture("checkpoint/fixtures/" + name);
}

std::vector<double> as_numbers(const Tensor& tensor) {
  const auto collect = [](auto span) { return std::vector<double>(span.begin(), span.end()); };
  switch (tensor.dtype()) {
    case DType::kF64:
      return collect(tensor.as<double>());
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
    default:
      return collect(tensor.to_floats());
  }
}

void expect_state_dict(const std::string& name, std::size_t left_out = 0) {
  const auto store = open_torch_file(fixture(name));
  const Json want = read_json_file(fixture("torch.json"));
  EXPECT_EQ(store->tensors().size() + left_out, want.size()) << name;
  for (const auto& [key, stored] : store->tensors()) {
    ASSERT_TRUE(want.contains(key)) << key;
    const Tensor tensor = store->load(key);
    EXPECT_EQ(to_string(tensor.dtype()), want[key]["dtype"].get<std::string>()) << key;
    EXPECT_EQ(stored.type, want[key]["dtype"].get<std::string>()) << key;
    EXPECT_EQ(tensor.shape(), want[key]["shape"].get<Shape>()) << key;
    EXPECT_EQ(as_numbers(tensor), want[key]["values"].get<std::vector<double>>()) << key;
  }
}

TEST(TorchFile, ReadsStateDicts) { expect_state_dict("torch_zip.pth"); }
TEST(TorchFile, ReadsWhatTrainingScriptsWrap) { expect_state_dict("torch_nested.pth"); }
TEST(TorchFile, ReadsTheFormatBeforeZip) { expect_state_dict("torch_legacy.pth", 2); }

// As mllm saves rotations: a matrix, and a list of them.
TEST(TorchFile, NamesTheTensorsOfAList) {
  const auto store = open_torch_file(testing::fixture("quantize/fixtures/mllm_rotation.bin"));
  ASSERT_EQ(store->tensors().size(), 3U);
  EXPECT_EQ(store->tensors().at("R").type, "F64");
  EXPECT_EQ(store->load("R_v.0").to_floats(), (std::vector<float>{1, 0, 0, 1}));
  EXPECT_EQ(store->load("R_v.1").to_floats(), (std::vector<float>{0, 1, 1, 0}));
}

TEST(TorchFile, KnowsWhatLiesInTheFile) {
  const auto store = open_torch_file(fixture("torch_zip.pth"));
  int in_file = 0;
  for (const auto& [key, stored] : store->tensors()) {
    const Tensor tensor = store->load(key);
    if (tensor.file() == nullptr) continue;
    ++in_file;
    EXPECT_EQ(tensor.file()->path(), fixture("torch_zip.pth"));
    EXPECT_EQ(tensor.identity(), store->load(key).identity());
  }
  EXPECT_GT(in_file, 0);
}

TEST(TorchFile, NamesWhatItWillNotCall) {
  EXPECT_NE(
      error_of([] { open_torch_file(fixture("torch_evil.pth")); }).find(".system\", which is"),
      std::string::npos);
  EXPECT_NE(error_of([] {
              open_torch_file(fixture("torch_module.pth"));
            }).find("names \"torch.nn.modules.linear.Linear\", which is not part of a state dict"),
            std::string::npos);
}

TEST(TorchFile, OpensAsACheckpointWholeAndInShards) {
  const testing::ScratchFolder folder;
  write_text_file(folder / "config.json", "{}");
  fs::copy_file(fixture("torch_zip.pth"), folder / "shard-1.bin");
  fs::copy_file(fixture("torch_nested.pth"), folder / "shard-2.bin");
  write_text_file(folder / "pytorch_model.bin.index.json",
                  R"({"weight_map":{"permuted":"shard-1.bin","scalar":"shard-2.bin"}})");
  const Checkpoint shards = Checkpoint::open(folder.path());
  EXPECT_GT(shards.tensors().size(), 2u);
  EXPECT_EQ(shards.tensor("permuted", {4, 2, 3}).to_floats()[1], -3.5f);
  EXPECT_EQ(shards.weight_files().size(), 2u);
  fs::rename(folder / "shard-1.bin", folder / "pytorch_model.bin");
  const Checkpoint whole = Checkpoint::open(folder.path());
  EXPECT_EQ(whole.tensor("scalar", {}).to_floats(), std::vector{2.5f});
  EXPECT_EQ(Checkpoint::open(folder / "pytorch_model.bin").tensors().size(),
            whole.tensors().size());
}

// Pickles written opcode by opcode.
class BadPickle : public ::testing::Test {
 protected:
  static std::string error(const std::string& pickle) {
    return error_of([&] {
      ByteReader reader(std::as_bytes(std::span(pickle)), "p");
      Unpickler().read(reader);
    });
  }
  static void expect_error(const std::string& pickle, const std::string& reason) {
    const std::string text = error(pickle);
    EXPECT_NE(text.find(reason), std::string::npos) << text;
  }
};

TEST_F(BadPickle, IsRefused) {
  expect_error("", "an opcode: expected 1 bytes");
  expect_error(".", "the stack is empty");
  expect_error("(.", "expected a value, got a mark");
  expect_error("NN.", "values are left on the stack");
  expect_error("t.", "there is no mark");
  expect_error("\x85.", "the stack is empty");
  expect_error("Na.", "expected a value");
  expect_error("NNa.", "expected a list to append to");
  expect_error("NNNs.", "expected a dict and pairs");
  expect_error("}(Nu.", "expected a dict and pairs");
  expect_error("h\x05.", "the memo has no 5");
  expect_error("X\xff\xff\xff\xff.", "a string: expected 4294967295 bytes");
  expect_error(std::string("\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", 10), "a string: expected");
  expect_error("cos\nsystem\n.", "names \"os.system\"");
  expect_error("cposix\nsystem\n(X\1\0\0\0atR.", "names \"posix.system\"");
  expect_error("c" + std::string(1000, 'a'), "expected a shorter name");
  expect_error("NNR.", "expected a function and its arguments");
  expect_error("ctorch\nFloatStorage\n)R.", "can't be called with these 0 arguments");
  expect_error("NNb.", "only a dict may have a state");
  expect_error("NQ.", "expected the id of a storage");
  expect_error("\x8f.", "opcode 0x8f is not one of a state dict");
  expect_error("i.", "opcode 0x69");
  expect_error(std::string((std::size_t{1} << 20) + 8, 'N'), "expected 1048576 values at most");
}

TEST_F(BadPickle, MayReferToItself) {
  // l = []; l.append(l); d = {"l": l}
  const std::string pickle = "}U\1l]q\1h\1as.";
  ByteReader reader(std::as_bytes(std::span(pickle)), "p");
  Unpickler unpickler;
  const PickleValue* value = unpickler.read(reader);
  EXPECT_EQ(value->find("l")->items[0], value->find("l"));
}

// The pre-zip format is the easiest to write by hand: its tensors can make any claim.
class BadTorchFile : public ::testing::Test {
 protected:
  static std::string int_op(std::int32_t value) {
    std::string text = "J";
    text.append(reinterpret_cast<const char*>(&value), sizeof value);
    return text;
  }
  static std::string sizes(const std::vector<std::int32_t>& values) {
    std::string text = "(";
    for (const std::int32_t value : values) text += int_op(value);
    return text + "t";
  }
  // A file with one tensor, "w", on a storage of 4 elements in 16 bytes or more.
  fs::path write(const std::string& storage, std::size_t bytes, std::int32_t offset,
                 const std::vector<std::int32_t>& shape, const std::vector<std::int32_t>& strides) {
    std::string file = std::string("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);
    file += "\x80\x02M\xe9\x03.}.";
    file +=
        "}U\1wctorch._utils\n_rebuild_tensor_v2\n((U\7storagectorch\n" + storage + "\nU\1kU\3cpu";
    file += int_op(4) + "NtQ" + int_op(offset) + sizes(shape) + sizes(strides) + "\x89}tRs.";
    file += "]U\1ka.";
    file += std::string("\4\0\0\0\0\0\0\0", 8) + std::string(bytes, '\0');
    write_text_file(scratch_ / "bad.pth", file);
    return scratch_ / "bad.pth";
  }
  void expect_error(std::int32_t offset, const std::vector<std::int32_t>& shape,
                    const std::vector<std::int32_t>& strides, const std::string& reason) {
    const fs::path path = write("FloatStorage", 16, offset, shape, strides);
    if (reason.empty()) {
      open_torch_file(path)->load("w");
      return;
    }
    const std::string text = error_of([&] { open_torch_file(path); });
    EXPECT_NE(text.find(reason), std::string::npos) << text;
    EXPECT_NE(text.find(path.string()), std::string::npos) << text;
  }

  testing::ScratchFolder scratch_;
};

TEST_F(BadTorchFile, ViewsStayInTheirStorage) {
  expect_error(0, {4}, {1}, "");
  expect_error(3, {1}, {0x7fffffff}, "");
  expect_error(0, {0}, {0x7fffffff}, "");
  expect_error(0, {4}, {0}, "");
  expect_error(0, {5}, {1}, "is larger than its storage of 4");
  expect_error(0, {0x7fffffff, 0x7fffffff, 0x7fffffff}, {0, 0, 0}, "is larger than");
  expect_error(1, {4}, {1}, "leaves its storage");
  expect_error(0, {2, 2}, {3, 1}, "leaves its storage");
  expect_error(4, {1}, {1}, "begins beyond its storage");
  expect_error(-1, {1}, {1}, "expected a storage and an offset");
  expect_error(0, {-1}, {1}, "from 0 up");
  expect_error(0, {2}, {-1}, "from 0 up");
  expect_error(0, {2}, {1, 1}, "as many strides as sizes");
}

// Elements of types that are not read here, which no graph may need.
TEST_F(BadTorchFile, UnreadTypesAreListedApart) {
  for (const auto& [storage, bytes] :
       {std::pair{"ComplexFloatStorage", 32}, {"ComplexDoubleStorage", 64}, {"QInt8Storage", 4}}) {
    const auto store =
        open_torch_file(write(storage, static_cast<std::size_t>(bytes), 0, {2, 2}, {2, 1}));
    EXPECT_TRUE(store->tensors().empty());
    ASSERT_TRUE(store->unread().contains("w")) << storage;
    EXPECT_EQ(store->unread().at("w").type, "torch." + std::string(storage));
    EXPECT_EQ(store->unread().at("w").shape, (Shape{2, 2}));
  }
  EXPECT_NE(error_of([&] {
              open_torch_file(write("ComplexFloatStorage", 31, 0, {4}, {1}));
            }).find("storage"),
            std::string::npos);
}

// Truncated and changed files give an error or a result, and nothing else.
TEST_F(BadTorchFile, MutationsNeverHurt) {
  std::mt19937 random(5);
  for (const char* name : {"torch_zip.pth", "torch_legacy.pth"}) {
    const std::string whole = read_text_file(fixture(name));
    const fs::path path = scratch_ / "changed.pth";
    for (int i = 0; i < 400; ++i) {
      std::string changed = whole;
      if (i % 4 == 0) {
        changed.resize(random() % whole.size());
      } else {
        for (int j = 0; j < 1 + i % 5; ++j)
          changed[random() % whole.size()] = static_cast<char>(random());
      }
      std::ofstream(path, std::ios::binary) << changed;
      try {
        const auto store = open_torch_file(path);
        for (const auto& [key, stored] : store->tensors()) store->load(key);
      } catch (const Error&) {
      }
    }
  }
}

TEST_F(BadTorchFile, OtherFilesAreRefused) {
  const fs::path path = scratch_ / "x.pth";
  write_text_file(path, "hello");
  EXPECT_NE(error_of([&] { open_torch_file(path); }).find("expected a file of torch.save"),
            std::string::npos);
  write_text_file(path, "PK\3\4 but no directory");
  EXPECT_NE(error_of([&] { open_torch_file(path); }).find("expected the directory of a zip"),
            std::string::npos);
}

}  // namespace
}  // namespace tandem
