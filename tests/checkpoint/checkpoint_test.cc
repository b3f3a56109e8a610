// Model folders: a single file, shards, and invalid folders.
#include "checkpoint/checkpoint.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;

class CheckpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directory(folder_);
    write_text_file(folder_ / "config.json", R"({"model_type":"llama"})");
  }

  void write_shard(const std::string& name, const std::vector<std::string>& tensors) {
    std::map<std::string, Tensor> map;
    for (const std::string& tensor : tensors)
      map[tensor] = Tensor::from_floats(std::vector<float>{static_cast<float>(tensor.back())}, {1});
    fs::create_directories((folder_ / name).parent_path());
    write_safetensors(folder_ / name, map);
  }

  void write_index(const std::string& weight_map) {
    write_text_file(folder_ / "model.safetensors.index.json",
                    R"({"metadata":{"total_size":8},"weight_map":)" + weight_map + "}");
  }

  void expect_error(const std::string& reason) {
    const std::string text = error_of([&] { Checkpoint::open(folder_); });
    EXPECT_NE(text.find(reason), std::string::npos) << text;
    EXPECT_NE(text.find(folder_.string()), std::string::npos) << text;
  }

  testing::ScratchFolder scratch_;
  fs::path folder_ = scratch_ / "model";
};

TEST_F(CheckpointTest, ReadsOneFile) {
  write_shard("model.safetensors", {"w.a", "w.b"});
  const Checkpoint checkpoint = Checkpoint::open(folder_);
  EXPECT_EQ(checkpoint.folder(), folder_);
  EXPECT_EQ(checkpoint.config().at("model_type"), "llama");
  EXPECT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_EQ(checkpoint.weight_files(), std::vector{folder_ / "model.safetensors"});
  EXPECT_TRUE(checkpoint.has("w.a"));
  EXPECT_FALSE(checkpoint.has("w.c"));
  EXPECT_EQ(checkpoint.tensor("w.a", {1}).to_floats()[0], 'a');
  EXPECT_EQ(error_of([&] { checkpoint.tensor("w.c", {1}); }),
            "[checkpoint] " + folder_.string() + ": tensor \"w.c\" is missing");
  EXPECT_EQ(error_of([&] { checkpoint.tensor("w.a", {1, 2}); }),
            "[checkpoint] " + (folder_ / "model.safetensors").string() +
                ": w.a: expected [1, 2], got [1]");
}

TEST_F(CheckpointTest, ReadsShards) {
  write_shard("model-1.safetensors", {"w.a", "w.b"});
  write_shard("more/model-2.safetensors", {"w.c", "unlisted"});
  write_index(
      R"({"w.a":"model-1.safetensors","w.b":"model-1.safetensors","w.c":"more/model-2.safetensors"})");
  const Checkpoint checkpoint = Checkpoint::open(folder_);
  // As in transformers, what a shard holds counts whether it is listed or not.
  EXPECT_EQ(checkpoint.tensors().size(), 4u);
  EXPECT_EQ(checkpoint.tensor("unlisted", {1}).to_floats()[0], 'd');
  EXPECT_EQ(checkpoint.tensor("w.c", {1}).to_floats()[0], 'c');
  EXPECT_EQ(checkpoint.weight_files().size(), 2u);
}

// The tensor may be one that nothing needs, such as a head that is tied.
TEST_F(CheckpointTest, AnIndexMayListWhatNoShardHolds) {
  write_shard("model-1.safetensors", {"w.a"});
  write_shard("model-2.safetensors", {"w.b"});
  write_index(
      R"({"w.a":"model-1.safetensors","w.b":"model-2.safetensors","w.c":"model-2.safetensors"})");
  const Checkpoint checkpoint = Checkpoint::open(folder_);
  EXPECT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_FALSE(checkpoint.has("w.c"));
  EXPECT_EQ(checkpoint.tensor("w.b", {1}).to_floats()[0], 'b');
  EXPECT_EQ(error_of([&] { checkpoint.tensor("w.c", {1}); }),
            "[checkpoint] " + folder_.string() +
                ": tensor \"w.c\" is missing: model.safetensors.index.json lists it in shard "
                "\"model-2.safetensors\", which does not hold it");
  EXPECT_EQ(error_of([&] { checkpoint.tensor("w.b", {2}); }),
            "[checkpoint] " + (folder_ / "model-2.safetensors").string() +
                ": w.b: expected [2], got [1]");
}

// "F4" has no reader here.
TEST_F(CheckpointTest, ReadsAroundATensorOfAnUnknownType) {
  const auto write = [&](const std::string& name, const std::string& tensor) {
    const std::string header =
        R"({"__metadata__":null,")" + tensor +
        R"(":{"dtype":"F4","shape":[2,2],"data_offsets":[4,6]},"w.a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
    std::string bytes(8, '\0');
    for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i));
    write_text_file(folder_ / name, bytes + header + std::string(6, '\0'));
  };
  const auto expect_read_around = [&](const std::string& file) {
    const Checkpoint checkpoint = Checkpoint::open(folder_);
    EXPECT_EQ(checkpoint.tensor("w.a", {1}).to_floats()[0], 0);
    EXPECT_EQ(checkpoint.tensors().size(), 1u);
    EXPECT_EQ(checkpoint.contents().size(), 1u);
    ASSERT_TRUE(checkpoint.unread().contains("w.b.weight"));
    EXPECT_EQ(checkpoint.unread().at("w.b.weight").shape, (Shape{2, 2}));
    // The model asks for it, so that it is refused and not taken for absent.
    EXPECT_TRUE(checkpoint.has("w.b.weight"));
    const std::string refusal =
        "[checkpoint] " + (folder_ / file).string() +
        ": tensor \"w.b.weight\": expected a type that is read here, got F4";
    EXPECT_EQ(error_of([&] { checkpoint.tensor("w.b.weight", {2, 2}); }), refusal);
    EXPECT_EQ(error_of([&] { checkpoint.linear("w.b", 2, 2); }), refusal);
    EXPECT_EQ(error_of([&] { checkpoint.load("w.b.weight"); }), refusal);
  };
  write("model.safetensors", "w.b.weight");
  expect_read_around("model.safetensors");
  fs::rename(folder_ / "model.safetensors", folder_ / "model-1.safetensors");
  write_index(R"({"w.a":"model-1.safetensors","w.b.weight":"model-1.safetensors"})");
  expect_read_around("model-1.safetensors");
}

TEST_F(CheckpointTest, TensorsOutliveTheCheckpoint) {
  write_shard("model.safetensors", {"w.a"});
  Tensor tensor;
  {
    tensor = Checkpoint::open(folder_).tensor("w.a", {1});
  }
  fs::remove_all(folder_);
  EXPECT_EQ(tensor.to_floats()[0], 'a');
}

TEST_F(CheckpointTest, ReadsTheDemoModel) {
  if (!fs::exists(testing::demo_dir() / "config.json")) GTEST_SKIP() << "models/demo is not there";
  const Checkpoint checkpoint = Checkpoint::open(testing::demo_dir());
  EXPECT_FALSE(checkpoint.tensors().empty());
  EXPECT_TRUE(checkpoint.config().contains("hidden_size"));
}

TEST_F(CheckpointTest, SaysWhatIsMissing) {
  expect_error(
      "expected config.json with model.safetensors, model.safetensors.index.json, "
      "pytorch_model.bin");
  write_shard("model.safetensors", {"w.a"});
  fs::remove(folder_ / "config.json");
  expect_error("config.json: cannot open");
  write_text_file(folder_ / "config.json", "[1]");
  expect_error("config.json: expected an object");
  write_text_file(folder_ / "config.json", "{");
  expect_error("config.json: line 1");
  fs::remove_all(folder_);
  expect_error("no such file or folder");
  write_text_file(folder_, "a file");
  expect_error("expected a safetensors, PyTorch, GGUF or .mllm file, or a folder");
}

TEST_F(CheckpointTest, ReadsAFileWithoutAConfiguration) {
  write_shard("any.name", {"w.a"});
  EXPECT_EQ(Checkpoint::open(folder_ / "any.name").config_object().get_string("model_type"),
            "llama");
  fs::remove(folder_ / "config.json");
  const Checkpoint checkpoint = Checkpoint::open(folder_ / "any.name");
  EXPECT_TRUE(checkpoint.has("w.a"));
  EXPECT_NE(error_of([&] { checkpoint.config_object(); }).find("no config.json beside it"),
            std::string::npos);
}

TEST_F(CheckpointTest, RefusesShardsOutsideTheFolder) {
  write_shard("../outside.safetensors", {"w.a"});
  const std::string absolute = (scratch_ / "outside.safetensors").string();
  const std::vector<std::string> names = {"../outside.safetensors",
                                          "x/../../outside.safetensors",
                                          "..",
                                          "",
                                          "/etc/passwd",
                                          "sub/",
                                          absolute,
                                          "a\\u0000b"};
  for (const std::string& name : names) {
    write_index("{\"w.a\":\"" + name + "\"}");
    expect_error("is not inside the folder");
  }
}

TEST_F(CheckpointTest, RefusesAnIndexThatDoesNotMatchItsShards) {
  write_shard("model-1.safetensors", {"w.a"});
  write_shard("model-2.safetensors", {"w.b"});
  write_index(R"({"w.a":"model-3.safetensors"})");
  expect_error("w.a: shard \"model-3.safetensors\" is missing");
  write_index(R"({"w.a":"."})");
  expect_error("w.a: shard \".\" is missing");
  write_index(R"({"w.a":7})");
  expect_error("weight_map.w.a: expected a string, got 7");
  write_index(R"({"w.a":"model-1.safetensors","w.a":"model-2.safetensors"})");
  expect_error("\"w.a\" appears twice");
  write_index("[]");
  expect_error("weight_map: expected an object");
  write_text_file(folder_ / "model.safetensors.index.json", "{}");
  expect_error("weight_map: is missing");
  write_text_file(folder_ / "model.safetensors.index.json", std::string(1000000, '['));
  expect_error("nested deeper");
}

}  // namespace
}  // namespace tandem
