// Opening packages that were damaged, and packages that mean harm.
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "checkpoint/safetensors.h"
#include "package/package_fixture.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::read_bytes;
using testing::read_manifest;
using testing::ScratchFolder;
using testing::sign_file;
using testing::write_bytes;
using testing::write_signed;

// A package, and a copy of it to spoil.
class SpoiledPackage : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::write_tiny_checkpoint(scratch_ / "c");
    testing::build_tiny_package(scratch_ / "c", original_);
    restore();
  }
  void restore() {
    fs::remove_all(package_);
    fs::copy(original_, package_);
  }

  // Opens the package and builds both graphs, as loading a model does.
  void open() {
    const Package package = Package::open(package_, pool_);
    package.chunk();
    const JsonObject config(package.config(), (package_ / "config.json").string());
    read_model_info(config);
    for (const Phase phase : {Phase::kPrefill, Phase::kDecode})
      build_graph(config, *package.weights(phase));
  }

  // The message of opening it; must name the folder and stay short.
  std::string message() {
    const std::string text = error_of([&] { open(); });
    EXPECT_NE(text.find(package_.string()), std::string::npos) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    EXPECT_LT(text.size(), 800u) << text;
    return text;
  }
  void expect(const std::string& part) {
    const std::string text = message();
    EXPECT_NE(text.find(part), std::string::npos) << text << "\n  lacks: " << part;
  }

  // A manifest with one change, signed again.
  void expect_manifest(const std::function<void(Json&)>& change, const std::string& part) {
    Json manifest = read_manifest(package_);
    change(manifest);
    write_signed(package_, std::move(manifest));
    expect(part);
    restore();
  }

  // One tensor file with one change, signed again.
  void expect_tensors(const char* file,
                      const std::function<void(std::map<std::string, Tensor>&)>& change,
                      const std::string& part) {
    auto tensors = SafetensorsFile::open(package_ / file).tensors;
    change(tensors);
    write_safetensors(package_ / file, tensors);
    sign_file(package_, file);
    expect(part);
    restore();
  }

  ScratchFolder scratch_;
  fs::path original_ = scratch_ / "original";
  fs::path package_ = scratch_ / "p";
  ThreadPool pool_{2};
};

TEST_F(SpoiledPackage, UntouchedOpens) { open(); }

TEST_F(SpoiledPackage, EveryFileIsCheckedForChange) {
  for (const std::string& name : testing::names_in(package_)) {
    const std::string bytes = read_bytes(package_ / name);
    ASSERT_FALSE(bytes.empty());
    for (const std::size_t at : {std::size_t{0}, bytes.size() / 2, bytes.size() - 2}) {
      std::string changed = bytes;
      changed[at] = static_cast<char>(changed[at] ^ 1);
      write_bytes(package_ / name, changed);
      expect(name);
    }
    for (const std::size_t size : {std::size_t{0}, bytes.size() / 2, bytes.size() - 2}) {
      write_bytes(package_ / name, bytes.substr(0, size));
      expect(name);
    }
    if (name != kManifestFile) {  // a new line at the end of JSON says nothing
      write_bytes(package_ / name, bytes + "\n");
      expect(name);
    }
    fs::remove(package_ / name);
    expect(name);
    fs::create_directory(package_ / name);
    expect(name);
    restore();
  }
}

TEST_F(SpoiledPackage, ManifestsOwnHashShowsEveryChange) {
  for (const char* key : {"scales", "recipe", "placement", "files"}) {
    Json manifest = read_manifest(package_);
    manifest[key]["new"] = 1;
    write_bytes(package_ / kManifestFile, manifest.dump());
    expect("does not match its own hash");
  }
  Json manifest = read_manifest(original_);
  manifest["scales"]["model.layers.0.mlp.up_proj"]["input"] = 0.5;
  write_bytes(package_ / kManifestFile, manifest.dump());
  expect("does not match its own hash");
  manifest.erase("hash");
  write_bytes(package_ / kManifestFile, manifest.dump());
  expect("hash");
  // Spaces and order are no content.
  write_bytes(package_ / kManifestFile, read_manifest(original_).dump());
  open();
}

TEST_F(SpoiledPackage, FormatOfAnotherVersion) {
  expect_manifest([](Json& m) { m["format"] = 999; }, "format 999, this version reads 1");
  for (const Json& bad : {Json(0), Json(-1), Json("1"), Json(1.5), Json(nullptr), Json::array(),
                          Json(std::numeric_limits<std::uint64_t>::max())})
    expect_manifest([&](Json& m) { m["format"] = bad; }, "format");
}

TEST_F(SpoiledPackage, MissingKeysAndWrongTypes) {
  for (const char* key : {"format", "recipe", "scales", "files"}) {
    expect_manifest([&](Json& m) { m.erase(key); }, key);
    for (const Json& bad : {Json(nullptr), Json(true), Json("x"), Json::array({1})})
      expect_manifest([&](Json& m) { m[key] = bad; }, key);
  }
  const Json::json_pointer chunk("/recipe/prefill/chunk");
  const Json::json_pointer group("/recipe/decode/group_size");
  const Json::json_pointer head("/recipe/decode/lm_head_group_size");
  for (const Json& bad : {Json(0), Json(-5), Json(1e9), Json("128"), Json(1.5), Json::object()}) {
    expect_manifest([&](Json& m) { m[chunk] = bad; }, "recipe.prefill.chunk");
    expect_manifest([&](Json& m) { m[group] = bad; }, "recipe.decode.group_size");
  }
  for (const Json& bad : {Json(-5), Json(1e9), Json("128"), Json(1.5), Json::object()})
    expect_manifest([&](Json& m) { m[head] = bad; }, "recipe.decode.lm_head_group_size");
  for (const int bad : {1, 3, 32, 4096})
    expect_manifest([&](Json& m) { m[group] = bad; }, "model.layers.0.");
  for (const int bad : {0, 1, 48, 64}) expect_manifest([&](Json& m) { m[head] = bad; }, "lm_head");
  for (const char* text : {"", "[]", "7", "{", "null", "\xff\xfe", "{\"format\": 1e999}"}) {
    write_bytes(package_ / kManifestFile, text);
    expect(kManifestFile);
  }
}

TEST_F(SpoiledPackage, FilesStayInTheFolder) {
  write_bytes(scratch_ / "outside", "x");
  for (const std::string& name :
       {std::string("../outside"), (scratch_ / "outside").string(), std::string(".."),
        std::string("."), std::string(""), std::string("a/b"), std::string("tandem.json\0x", 13)})
    expect_manifest([&](Json& m) { m["files"][name] = {{"bytes", 1}, {"hash", "0"}}; },
                    "is not a plain file name");
  expect_manifest([](Json& m) { m["files"]["more"] = {{"bytes", 1}, {"hash", "0"}}; }, "more");
  for (const char* needed : {"config.json", "decode.safetensors", "prefill.safetensors"})
    expect_manifest([&](Json& m) { m["files"].erase(needed); }, needed);
  for (const Json& bad : {Json(-1), Json("5"), Json(1e300), Json(nullptr)})
    expect_manifest([&](Json& m) { m["files"]["config.json"]["bytes"] = bad; }, "config.json");
  expect_manifest([](Json& m) { m["files"]["config.json"]["hash"] = 5; }, "config.json");
  expect_manifest([](Json& m) { m["files"]["config.json"] = "x"; }, "config.json");
  const std::string control = "evil\x1b[31m\n" + std::string(5000, 'a');
  expect_manifest([&](Json& m) { m["files"][control] = 1; }, "evil");
}

TEST_F(SpoiledPackage, ScalesAreNumbersAboveZero) {
  const std::string module = "model.layers.1.mlp.up_proj";
  for (const Json& bad : {Json(0), Json(-1), Json(-0.5), Json(1e300), Json(1e-300), Json("1"),
                          Json(nullptr), Json(true)})
    expect_manifest([&](Json& m) { m["scales"][module]["input"] = bad; }, module);
  expect_manifest([&](Json& m) { m["scales"].erase(module); }, module);
  expect_manifest([&](Json& m) { m["scales"][module] = 1; }, module);
  // JSON has no NaN: a file that spells it is no JSON.
  std::string text = read_bytes(package_ / kManifestFile);
  const std::size_t at = text.find("\"input\": ") + 9;
  text.replace(at, text.find(',', at) - at, "NaN");
  write_bytes(package_ / kManifestFile, text);
  expect("line");
}

TEST_F(SpoiledPackage, TensorsFitTheModel) {
  const std::string module = "model.layers.0.self_attn.q_proj";
  using Tensors = std::map<std::string, Tensor>;
  const auto zeros = [](DType dtype, const Shape& shape) {
    std::byte* data = nullptr;
    Tensor tensor = Tensor::allocate(dtype, shape, &data);
    std::fill_n(data, tensor.bytes().size(), std::byte{0});
    return tensor;
  };
  for (const char* part : {".codes", ".scales", ".zero_points"}) {
    const std::string name = module + part;
    expect_tensors(
        kDecodeFile, [&](Tensors& t) { t[name] = zeros(t[name].dtype(), {64, 63}); }, module);
    expect_tensors(
        kDecodeFile, [&](Tensors& t) { t[name] = zeros(DType::kF32, t[name].shape()); }, module);
    expect_tensors(kDecodeFile, [&](Tensors& t) { t.erase(name); }, module);
  }
  for (const char* part : {".codes", ".scales"}) {
    const std::string name = module + part;
    expect_tensors(
        kPrefillFile, [&](Tensors& t) { t[name] = zeros(t[name].dtype(), {63}); }, module);
    expect_tensors(
        kPrefillFile, [&](Tensors& t) { t[name] = zeros(DType::kU8, t[name].shape()); }, module);
  }
  expect_tensors(kPrefillFile, [&](Tensors& t) { t.erase(module + ".scales"); }, module);
  expect_tensors(
      kPrefillFile,
      [&](Tensors& t) {
        t[module + ".scales"] = Tensor::from_floats(
            std::vector<float>(64, std::numeric_limits<float>::quiet_NaN()), {64});
      },
      module);
  expect_tensors(
      kPrefillFile,
      [&](Tensors& t) {
        t[module + ".scales"] = Tensor::from_floats(std::vector<float>(64, -1.0f), {64});
      },
      module);
  expect_tensors(
      kDecodeFile,
      [&](Tensors& t) {
        std::byte* data = nullptr;
        const Shape shape = t[module + ".scales"].shape();
        t[module + ".scales"] = Tensor::allocate(DType::kF16, shape, &data);
        std::fill_n(data, t[module + ".scales"].bytes().size(), std::byte{0x7e});  // NaN
      },
      module);
  const std::string norm = "model.norm.weight";
  expect_tensors(kDecodeFile, [&](Tensors& t) { t[norm] = zeros(DType::kI8, {64}); }, norm);
  expect_tensors(kDecodeFile, [&](Tensors& t) { t[norm] = zeros(DType::kF32, {65}); }, norm);
  expect_tensors(kDecodeFile, [&](Tensors& t) { t.erase(norm); }, norm);
}

TEST_F(SpoiledPackage, ConfigThatMeansHarm) {
  const auto expect_config = [&](const std::function<void(Json&)>& change,
                                 const std::string& part) {
    Json config = read_json_file(package_ / "config.json");
    change(config);
    write_bytes(package_ / "config.json", config.dump());
    sign_file(package_, "config.json");
    expect(part);
    restore();
  };
  expect_config([](Json& c) { c["hidden_size"] = std::int64_t{1} << 60; }, "hidden_size");
  expect_config([](Json& c) { c["hidden_size"] = 128; }, "expected");
  expect_config([](Json& c) { c["num_hidden_layers"] = 3; }, "model.layers.2.");
  expect_config([](Json& c) { c["num_hidden_layers"] = -1; }, "num_hidden_layers");
  expect_config([](Json& c) { c["vocab_size"] = 1; }, "");
  expect_config([](Json& c) { c["model_type"] = "unheard"; }, "model_type");
  expect_config([](Json& c) { c = Json::array(); }, "config.json");
}

}  // namespace
}  // namespace tandem
