// Opening damaged and hostile packages.
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
    testing::write_tiny_package(original_);
    restore();
  }
  void restore() {
    fs::remove_all(package_);
    fs::copy(original_, package_);
  }

  // Opens the package and reads both graphs, as loading a model does.
  void open(const PackageOptions& options = {}) {
    const Package package = Package::open(package_, pool_, options);
    for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) package.graph(phase);
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
  // graph.json with one change, signed again.
  void expect_graph(const std::function<void(Json&)>& change, const std::string& part) {
    Json graphs = read_json_file(package_ / kGraphFile);
    change(graphs);
    write_bytes(package_ / kGraphFile, graphs.dump());
    sign_file(package_, kGraphFile);
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
  for (const char* key : {"model", "recipe", "files"}) {
    Json manifest = read_manifest(package_);
    manifest[key]["new"] = 1;
    write_bytes(package_ / kManifestFile, manifest.dump());
    expect("does not match its own hash");
  }
  Json manifest = read_manifest(original_);
  manifest["model"]["context_length"] = 128;
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
  expect_manifest(
      [](Json& m) { m["format"] = 1; },
      "tandem.json: format 1, this version reads 2 and 3: quantize the checkpoint again");
  expect_manifest([](Json& m) { m["format"] = 999; }, "format 999, this version reads 2");
  for (const Json& bad : {Json(0), Json(-1), Json("1"), Json(1.5), Json(nullptr), Json::array(),
                          Json(std::numeric_limits<std::uint64_t>::max())})
    expect_manifest([&](Json& m) { m["format"] = bad; }, "format");
}

// What the version before this one wrote is told by its format, whatever else it lacks.
TEST_F(SpoiledPackage, FormatOneIsRefusedBeforeAnythingElse) {
  for (const std::string& name : testing::names_in(package_)) fs::remove(package_ / name);
  write_bytes(package_ / kManifestFile,
              R"({"format": 1, "recipe": {}, "scales": {}, "files": {}, "hash": "0"})");
  try {
    open();
    ADD_FAILURE() << "opened";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  }
  expect("format 1, this version reads 2 and 3: quantize the checkpoint again");
}

TEST_F(SpoiledPackage, MissingKeysAndWrongTypes) {
  for (const char* key : {"format", "model", "recipe", "files"}) {
    expect_manifest([&](Json& m) { m.erase(key); }, key);
    for (const Json& bad : {Json(nullptr), Json(true), Json("x"), Json::array({1})})
      expect_manifest([&](Json& m) { m[key] = bad; }, key);
  }
  for (const Json& bad : {Json(0), Json(-5), Json(1e9), Json("128"), Json(1.5), Json::object()})
    expect_manifest([&](Json& m) { m["recipe"]["chunk"] = bad; }, "recipe.chunk");
  for (const char* text : {"", "[]", "7", "{", "null", "\xff\xfe", "{\"format\": 1e999}"}) {
    write_bytes(package_ / kManifestFile, text);
    expect(kManifestFile);
  }
}

TEST_F(SpoiledPackage, ModelThatMeansHarm) {
  for (const char* key : {"model_type", "layers", "hidden_size", "heads", "kv_heads", "head_dim",
                          "vocabulary", "context_length", "tied_head", "eos"})
    expect_manifest([&](Json& m) { m["model"].erase(key); }, key);
  for (const char* key :
       {"layers", "hidden_size", "heads", "kv_heads", "head_dim", "vocabulary", "context_length"})
    for (const Json& bad : {Json(0), Json(-1), Json(std::int64_t{1} << 60), Json("x"), Json(1.5)})
      expect_manifest([&](Json& m) { m["model"][key] = bad; }, std::string("model.") + key);
  for (const char* key : {"bos", "pad"})
    for (const Json& bad : {Json(-1), Json(testing::kTinyVocabulary), Json("x")})
      expect_manifest([&](Json& m) { m["model"][key] = bad; }, std::string("model.") + key);
  for (const Json& bad : {Json(-1), Json::array({1, testing::kTinyVocabulary}), Json("x")})
    expect_manifest([&](Json& m) { m["model"]["eos"] = bad; }, "model.eos");
}

TEST_F(SpoiledPackage, FilesStayInTheFolder) {
  write_bytes(scratch_ / "outside", "x");
  for (const std::string& name :
       {std::string("../outside"), (scratch_ / "outside").string(), std::string(".."),
        std::string("."), std::string(""), std::string("a/b"), std::string("tandem.json\0x", 13)})
    expect_manifest([&](Json& m) { m["files"][name] = {{"bytes", 1}, {"hash", "0"}}; },
                    "is not a plain file name");
  expect_manifest([](Json& m) { m["files"]["more"] = {{"bytes", 1}, {"hash", "0"}}; }, "more");
  for (const char* needed : {kGraphFile, kDecodeFile, kPrefillFile})
    expect_manifest([&](Json& m) { m["files"].erase(needed); }, needed);
  for (const Json& bad : {Json(-1), Json("5"), Json(1e300), Json(nullptr)})
    expect_manifest([&](Json& m) { m["files"]["config.json"]["bytes"] = bad; }, "config.json");
  expect_manifest([](Json& m) { m["files"]["config.json"]["hash"] = 5; }, "config.json");
  expect_manifest([](Json& m) { m["files"]["config.json"] = "x"; }, "config.json");
  const std::string control = "evil\x1b[31m\n" + std::string(5000, 'a');
  expect_manifest([&](Json& m) { m["files"][control] = 1; }, "evil");
}

// The number of the first node whose name ends with this.
std::size_t find_node(const Json& graphs, const char* phase, const std::string& end) {
  const Json& nodes = graphs.at(phase).at("nodes");
  for (std::size_t i = 0; i < nodes.size(); ++i)
    if (nodes[i].at("name").get<std::string>().ends_with(end)) return i;
  ADD_FAILURE() << end;
  return 0;
}

TEST_F(SpoiledPackage, GraphFileThatIsCutOrNone) {
  const std::string whole = read_bytes(package_ / kGraphFile);
  for (const std::string& text :
       {std::string(), whole.substr(0, 1), whole.substr(0, whole.size() / 2),
        whole.substr(0, whole.size() - 3), std::string("[]"), std::string("null"),
        std::string("\xff\xfe"), std::string(100000, '[')}) {
    write_bytes(package_ / kGraphFile, text);
    sign_file(package_, kGraphFile);
    expect(kGraphFile);
  }
  restore();
  for (const char* phase : {"prefill", "decode"}) {
    expect_graph([&](Json& g) { g.erase(phase); }, phase);
    for (const Json& bad : {Json(nullptr), Json(1), Json("x"), Json::array(), Json::object()})
      expect_graph([&](Json& g) { g[phase] = bad; }, phase);
  }
}

TEST_F(SpoiledPackage, GraphThatIsNotWhole) {
  // Every node is needed, whichever is missing.
  const Json graphs = read_json_file(package_ / kGraphFile);
  for (std::size_t i = 0; i < graphs["decode"]["nodes"].size(); ++i)
    expect_graph([&](Json& g) { g["decode"]["nodes"].erase(i); }, kGraphFile);
  for (const char* key : {"op", "name", "inputs", "outputs"})
    expect_graph([&](Json& g) { g["decode"]["nodes"][3].erase(key); }, "decode.nodes[3]");
  for (const char* key : {"row_spaces", "inputs", "nodes", "outputs"}) {
    expect_graph([&](Json& g) { g["prefill"].erase(key); }, key);
    for (const Json& bad : {Json("x"), Json(1.5), Json::array({Json::object()})})
      expect_graph([&](Json& g) { g["prefill"][key] = bad; }, key);
  }
  expect_graph([](Json& g) { g["decode"]["nodes"][2]["op"] = "Softmax"; }, "\"Softmax\"");
  expect_graph([](Json& g) { g["decode"]["nodes"][2]["inputs"] = {1000}; }, kGraphFile);
  expect_graph([](Json& g) { g["decode"]["nodes"][2]["inputs"] = {-1}; }, "inputs");
  expect_graph([](Json& g) { g["decode"]["nodes"][2]["outputs"] = {0}; }, "outputs");
  expect_graph([](Json& g) { g["decode"]["outputs"] = {1000}; }, kGraphFile);
  // Each layer has a cache of its own, with one writer.
  expect_graph(
      [](Json& g) {
        for (Json& node : g["decode"]["nodes"])
          if (node.value("layer", -1) == 1) node["layer"] = 0;
      },
      "layer");
}

TEST_F(SpoiledPackage, GraphAsksForTensorsThatAreThere) {
  const auto weight = [](Json& g, const char* end) -> Json& {
    const std::size_t node = find_node(g, "decode", end);
    return g["decode"]["nodes"][node]["weight"];
  };
  for (const char* part : {"codes", "scales", "zero_points"}) {
    for (const char* name : {"decode.safetensors:none", "none.safetensors:x", "", "config.json:x"})
      expect_graph([&](Json& g) { weight(g, "0.mlp.up_proj")[part] = name; },
                   std::string("tensor \"") + name + "\" is missing");
    for (const Json& bad : {Json(1), Json::object()})
      expect_graph([&](Json& g) { weight(g, "0.mlp.up_proj")[part] = bad; }, part);
    // Another one's, of another shape.
    expect_graph(
        [&](Json& g) { weight(g, "0.mlp.up_proj")[part] = weight(g, "0.mlp.down_proj")[part]; },
        "model.layers.0.mlp.up_proj");
  }
  expect_graph([&](Json& g) { weight(g, "0.mlp.up_proj")["kind"] = "ternary"; }, "\"ternary\"");
  expect_graph([&](Json& g) { weight(g, "0.mlp.up_proj")["bits"] = 5; }, "mlp.up_proj");
  for (const Json& bad : {Json(0), Json(-64), Json(128), Json(std::int64_t{1} << 40)})
    expect_graph([&](Json& g) { weight(g, "0.mlp.up_proj")["k"] = bad; }, kGraphFile);
}

TEST_F(SpoiledPackage, ScalesAreNumbersAboveZero) {
  const std::string module = "input_layernorm.quantize";
  for (const Json& bad : {Json(0), Json(-1), Json(-0.5), Json(1e300), Json(1e-300), Json("1"),
                          Json(true), Json::array({1})})
    expect_graph(
        [&](Json& g) { g["prefill"]["nodes"][find_node(g, "prefill", module)]["scale"] = bad; },
        kGraphFile);
  expect_graph(
      [&](Json& g) { g["prefill"]["nodes"][find_node(g, "prefill", module)].erase("scale"); },
      module);
  // Python's JSON has NaN; no setting of a graph may be it.
  std::string text = read_bytes(package_ / kGraphFile);
  const std::size_t at = text.find("\"epsilon\": ") + 11;
  text.replace(at, text.find(',', at) - at, "NaN");
  write_bytes(package_ / kGraphFile, text);
  sign_file(package_, kGraphFile);
  expect("epsilon: expected a finite number, got NaN");
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
    // How many scales there are says what shares one, so that 63 are told before the rest.
    const std::string place =
        std::string(part) == ".scales" ? "decode.nodes[2]: weight.scales" : module;
    expect_tensors(
        kDecodeFile, [&](Tensors& t) { t[name] = zeros(t[name].dtype(), {64, 63}); }, place);
    expect_tensors(
        kDecodeFile, [&](Tensors& t) { t[name] = zeros(DType::kI32, t[name].shape()); }, module);
    expect_tensors(
        kDecodeFile, [&](Tensors& t) { t[name] = zeros(t[name].dtype(), {64}); },
        std::string("decode.nodes[2]: weight") + part);
    expect_tensors(kDecodeFile, [&](Tensors& t) { t.erase(name); }, module);
  }
  for (const char* part : {".codes", ".scales"}) {
    const std::string name = module + part;
    const std::string place =
        std::string(part) == ".codes" ? "prefill.nodes[3]: weight.codes" : module;
    expect_tensors(
        kPrefillFile, [&](Tensors& t) { t[name] = zeros(t[name].dtype(), {63}); }, place);
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
  expect_tensors(kDecodeFile, [&](Tensors& t) { t[norm] = zeros(DType::kI8, {64}); }, "model.norm");
  expect_tensors(
      kDecodeFile, [&](Tensors& t) { t[norm] = zeros(DType::kF32, {65}); }, "model.norm");
  expect_tensors(kDecodeFile, [&](Tensors& t) { t.erase(norm); }, norm);
}

// What opening a package leaves in the cache, and what it trusts of it.
class RememberedPackage : public SpoiledPackage {
 protected:
  std::vector<fs::path> records() const {
    std::vector<fs::path> found;
    if (!fs::exists(options_.cache)) return found;
    for (const auto& entry : fs::directory_iterator(options_.cache)) {
      EXPECT_EQ(entry.path().extension(), ".verified");
      found.push_back(entry.path());
    }
    return found;
  }
  // The message of opening with what is remembered, or without.
  std::string refusal(bool verify) {
    return error_of([&] { open({.cache = options_.cache, .verify = verify}); });
  }

  PackageOptions options_{.cache = scratch_ / "deep/cache"};
};

TEST_F(RememberedPackage, EachFileIsRememberedOnce) {
  const std::size_t files = read_manifest(package_)["files"].size();
  open(options_);
  EXPECT_EQ(records().size(), files);
  open(options_);
  EXPECT_EQ(records().size(), files);
  open({.cache = options_.cache, .verify = true});
  EXPECT_EQ(records().size(), files);
  for (const fs::path& record : records()) EXPECT_EQ(read_bytes(record).size(), 32u);
}

TEST_F(RememberedPackage, ChangedFileIsFoundByItsStamp) {
  for (const char* name : {kDecodeFile, kGraphFile, "config.json"}) {
    open(options_);
    const fs::path path = package_ / name;
    const auto time = fs::last_write_time(path);
    std::string bytes = read_bytes(path);
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
    write_bytes(path, bytes);
    // Whoever sets the time of the content back cannot set that of the status.
    fs::last_write_time(path, time);
    EXPECT_NE(refusal(false).find(name), std::string::npos);
    EXPECT_NE(refusal(true).find(name), std::string::npos);
    restore();
  }
}

// A record that says what the manifest wants to hear, as if the file had changed under the same
// stamp: only reading every byte finds out.
TEST_F(RememberedPackage, VerifyReadsWhatARecordWouldHide) {
  const std::string hash = read_manifest(package_)["files"][kDecodeFile]["hash"];
  std::string bytes = read_bytes(package_ / kDecodeFile);
  bytes[bytes.size() - 1] = static_cast<char>(bytes[bytes.size() - 1] ^ 1);
  write_bytes(package_ / kDecodeFile, bytes);
  fs::create_directories(options_.cache);
  const fs::path record =
      options_.cache / (content_hash(file_stamp(package_ / kDecodeFile)) + ".verified");
  write_bytes(record, hash);
  open(options_);
  EXPECT_NE(refusal(true).find(kDecodeFile), std::string::npos);
  // What was found is remembered.
  EXPECT_NE(read_bytes(record), hash);
  EXPECT_NE(refusal(false).find(kDecodeFile), std::string::npos);
}

TEST_F(RememberedPackage, RecordThatIsGarbageIsNone) {
  open(options_);
  std::vector<std::pair<fs::path, std::string>> good;
  for (const fs::path& record : records()) good.emplace_back(record, read_bytes(record));
  for (const std::string& text :
       {std::string(), std::string("x"), std::string(32, 'g'), std::string(31, 'a'),
        std::string(33, 'a'), std::string(32, '\0'), std::string(1 << 20, 'a')}) {
    for (const auto& [record, hash] : good) write_bytes(record, text);
    open(options_);
    for (const auto& [record, hash] : good) EXPECT_EQ(read_bytes(record), hash) << text.size();
  }
  // Something else where the record should be.
  for (const auto& [record, hash] : good) {
    fs::remove(record);
    fs::create_directory(record);
  }
  open(options_);
}

TEST_F(RememberedPackage, CacheThatCannotBeWrittenIsNone) {
  // A file where the folder should be refuses even root.
  write_bytes(scratch_ / "deep", "");
  open(options_);
  open(options_);
  EXPECT_TRUE(fs::is_regular_file(scratch_ / "deep"));
}

bool same_bytes(const Tensor& tensor, const std::vector<std::byte>& bytes) {
  return std::ranges::equal(tensor.bytes(), bytes);
}

// Between opening and use, files are replaced by others: what was verified is what is used.
TEST_F(SpoiledPackage, UsesTheVeryBytesThatWereVerified) {
  const Package package = Package::open(package_, pool_);
  package.require_unchanged();
  const std::string before = dump(package.graph(Phase::kDecode));
  const std::string name = "decode.safetensors:model.layers.0.mlp.up_proj.codes";
  const auto bytes = package.tensors().at(name).bytes();
  const std::vector<std::byte> codes(bytes.begin(), bytes.end());
  for (const char* file : {kDecodeFile, kPrefillFile, kGraphFile}) {
    write_bytes(scratch_ / "other", std::string(fs::file_size(package_ / file), 'x'));
    fs::rename(scratch_ / "other", package_ / file);
    EXPECT_EQ(dump(package.graph(Phase::kDecode)), before) << file;
    EXPECT_TRUE(same_bytes(package.tensors().at(name), codes)) << file;
    const std::string changed = error_of([&] { package.require_unchanged(); });
    EXPECT_NE(changed.find("was changed while it was being opened: open it again"),
              std::string::npos)
        << changed;
  }
}

// Texts are read from their files when they are needed: whoever does so asks afterwards.
TEST_F(SpoiledPackage, ChangedTextsAreNoticed) {
  const Package package = Package::open(package_, pool_);
  write_bytes(package_ / "config.json", "{}");
  EXPECT_NE(error_of([&] { package.require_unchanged(); }).find("config.json"), std::string::npos);
  restore();
  const Package again = Package::open(package_, pool_);
  fs::remove(package_ / "config.json");
  EXPECT_NE(error_of([&] { again.require_unchanged(); }).find("config.json"), std::string::npos);
}

}  // namespace
}  // namespace tandem
