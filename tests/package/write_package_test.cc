// What a package stores of graphs that are in memory, and that it gives them back.
#include "package/write_package.h"

#include <gtest/gtest.h>

#include <set>

#include "base/version.h"
#include "checkpoint/safetensors.h"
#include "graph/graph_json.h"
#include "package/package_fixture.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::ScratchFolder;
using testing::tiny_model;
using testing::write_tiny_package;

// All tensors of a graph, in its order.
std::vector<Tensor> tensors_of(const Graph& graph) {
  class Gatherer : public TensorSink {
   public:
    std::string keep(const std::string&, const Tensor& tensor) override {
      tensors.push_back(tensor);
      return {};
    }
    std::string keep(const std::string& name,
                     const std::shared_ptr<const RowSource>& rows) override {
      return keep(name, *rows->stored());
    }
    std::vector<Tensor> tensors;
  };
  Gatherer gatherer;
  graph_to_json(graph, gatherer);
  return gatherer.tensors;
}

void expect_same(const Graph& a, const Graph& b) {
  ASSERT_EQ(dump(a), dump(b));
  const std::vector<Tensor> x = tensors_of(a), y = tensors_of(b);
  ASSERT_EQ(x.size(), y.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(x[i].dtype(), y[i].dtype()) << i;
    EXPECT_EQ(x[i].shape(), y[i].shape()) << i;
    EXPECT_TRUE(std::ranges::equal(x[i].bytes(), y[i].bytes())) << i;
  }
}

TEST(WritePackage, GivesBackItsGraphs) {
  const ScratchFolder folder;
  write_tiny_package(folder / "p");
  ThreadPool pool(2);
  const Package package = Package::open(folder / "p", pool);
  const testing::TinyModel model = tiny_model();
  expect_same(package.graph(Phase::kPrefill), model.prefill);
  expect_same(package.graph(Phase::kDecode), model.decode);
  EXPECT_EQ(to_json(package.info()), to_json(model.info));
  EXPECT_EQ(package.chunk(), 32);
  EXPECT_EQ(package.generation_config(), (Json{{"temperature", 0.5}}));
  EXPECT_EQ(package.manifest()["format"], kPackageFormat);
  EXPECT_EQ(package.manifest()["tandem"], build_version());
  EXPECT_EQ(read_json_file(folder / "p/genai_config.json")["search"]["temperature"], 0.5);
  for (const auto& [reference, tensor] : package.tensors())
    EXPECT_NE(tensor.file(), nullptr) << reference;
}

TEST(WritePackage, StoresEachTensorOnce) {
  const ScratchFolder folder;
  write_tiny_package(folder / "p");
  const auto decode = SafetensorsFile::open(folder / "p" / kDecodeFile).tensors;
  const auto prefill = SafetensorsFile::open(folder / "p" / kPrefillFile).tensors;
  // Five norms, the table that is the head too, three parts of each weight, two biases.
  EXPECT_EQ(decode.size(), 5u + 1 + 2 * 7 * 3 + 2);
  EXPECT_TRUE(decode.contains("model.embed_tokens.weight"));
  EXPECT_FALSE(decode.contains("lm_head.weight"));
  // Norms and biases are those of decode.
  EXPECT_EQ(prefill.size(), 2u * 7 * 2);
  for (const auto& [name, tensor] : prefill)
    EXPECT_TRUE(name.ends_with(".codes") || name.ends_with(".scales")) << name;
  ThreadPool pool(1);
  const Package package = Package::open(folder / "p", pool);
  const auto sum = [](const auto& tensors) {
    std::int64_t bytes = 0;
    for (const auto& [name, tensor] : tensors)
      bytes += static_cast<std::int64_t>(tensor.bytes().size());
    return bytes;
  };
  EXPECT_EQ(tensor_bytes(package.graph(Phase::kDecode)), sum(decode));
}

TEST(WritePackage, GraphOfBothPhasesIsStoredOnce) {
  const ScratchFolder folder;
  const testing::TinyModel model = tiny_model();
  ThreadPool pool(1);
  write_package(folder.path(),
                {model.info, Json::object(), model.decode, model.decode, OrderedJson{{"chunk", 7}}},
                pool, silent());
  EXPECT_TRUE(SafetensorsFile::open(folder / kPrefillFile).tensors.empty());
  const Package package = Package::open(folder.path(), pool);
  expect_same(package.graph(Phase::kPrefill), model.decode);
  EXPECT_EQ(package.chunk(), 7);
}

// Rows that a pass computes are written in pieces, of their own type.
TEST(WritePackage, WritesRowsThatAreComputed) {
  const ScratchFolder folder;
  testing::TinyModel model = tiny_model();
  // More than one piece of a million values.
  const std::int64_t vocabulary = 40000;
  std::vector<float> values;
  for (std::int64_t i = 0; i < vocabulary * 64; ++i)
    values.push_back(static_cast<float>(i % 1021) * 0.5F);
  const Rows table = stored_rows(Tensor::from_floats(values, {vocabulary, 64}));
  std::vector<float> factors;
  for (int c = 0; c < 64; ++c) factors.push_back(1.0F + static_cast<float>(c) * 0.25F);
  const Rows scaled = scale_columns(table, factors);
  const auto build = [&](const Rows& head) {
    Graph graph;
    const ValueId ids = graph.add_input({.name = "ids", .dtype = DType::kI32, .width = 1});
    const ValueId x =
        graph.add(Op::kEmbedding, "embed", -1, {ids}, EmbeddingAttributes{*table->stored(), 1});
    graph.set_outputs(
        {graph.add(Op::kLinear, "head", -1, {x}, LinearAttributes{FloatWeight(head), {}})});
    return graph;
  };
  const Graph graph = build(scaled);
  ThreadPool pool(2);
  write_package(folder.path(),
                {model.info, Json::object(), graph, graph, OrderedJson{{"chunk", 1}}}, pool,
                silent());
  const auto tensors = SafetensorsFile::open(folder / kDecodeFile).tensors;
  EXPECT_EQ(tensors.size(), 2u);
  const Tensor& head = tensors.at("head.weight");
  EXPECT_EQ(head.dtype(), scaled->dtype());
  std::vector<float> expected(values.size());
  scaled->read(0, expected);
  EXPECT_EQ(head.to_floats(), expected);
}

// Two nodes of one name, and a name that looks like what is made of that.
TEST(WritePackage, TensorsOfOneNameAreToldApart) {
  const ScratchFolder folder;
  const testing::TinyModel model = tiny_model();
  const auto weight = [](float value) {
    return FloatWeight(Tensor::from_floats(std::vector<float>(64 * 64, value), {64, 64}));
  };
  Graph graph;
  const ValueId ids = graph.add_input({.name = "ids", .dtype = DType::kI32, .width = 1});
  ValueId x =
      graph.add(Op::kEmbedding, "embed", -1, {ids},
                EmbeddingAttributes{Tensor::from_floats(std::vector<float>(640), {10, 64}), 1});
  float value = 1;
  for (const char* name : {"a", "a", "a.weight", "a", "a.weight.1"}) {
    const float norm = value++;
    x = graph.add(Op::kLinear, name, -1, {x}, LinearAttributes{weight(norm), {}});
  }
  graph.set_outputs({x});
  ThreadPool pool(1);
  write_package(folder.path(),
                {model.info, Json::object(), graph, graph, OrderedJson{{"chunk", 1}}}, pool,
                silent());
  const auto tensors = SafetensorsFile::open(folder / kDecodeFile).tensors;
  std::set<float> seen;
  for (const auto& [name, tensor] : tensors) seen.insert(tensor.to_floats().front());
  EXPECT_EQ(seen, (std::set<float>{0, 1, 2, 3, 4, 5}));
}

// Says no at a step.
class Impatient : public Observer {
 public:
  explicit Impatient(int stop) : stop_(stop) {}
  bool cancelled() const override { return ++steps_ >= stop_; }

 private:
  int stop_;
  mutable int steps_ = 0;
};

TEST(WritePackage, EndsWhenItIsNoLongerWanted) {
  const ScratchFolder folder;
  const testing::TinyModel model = tiny_model();
  ThreadPool pool(1);
  Impatient observer(5);
  try {
    write_package(
        folder.path(),
        {model.info, Json::object(), model.prefill, model.decode, OrderedJson{{"chunk", 1}}}, pool,
        observer);
    ADD_FAILURE() << "not interrupted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled);
  }
  EXPECT_FALSE(Package::is_package(folder.path())) << "a folder without a manifest is none";
}

TEST(WritePackage, KeepsAPrefix) {
  const ScratchFolder folder;
  const testing::TinyModel model = tiny_model();
  ThreadPool pool(1);
  const auto write = [&](std::vector<std::int32_t> prefix) {
    fs::remove_all(folder / "p");
    fs::create_directory(folder / "p");
    write_package(folder / "p",
                  {model.info,
                   Json::object(),
                   model.prefill,
                   model.decode,
                   {{"chunk", 32}},
                   std::move(prefix)},
                  pool, silent());
    return Package::open(folder / "p", pool);
  };
  const Package package = write({3, 49});
  EXPECT_EQ(std::vector(package.prefix().begin(), package.prefix().end()),
            (std::vector<std::int32_t>{3, 49}));
  // Programs that know of no prefix must not read it.
  EXPECT_EQ(package.manifest()["format"], kPackageFormatWithPrefix);
  EXPECT_EQ(write({}).manifest()["format"], kPackageFormat);
  const auto refusal = [&](const std::vector<std::int32_t>& prefix) {
    return error_of([&] { write(prefix); });
  };
  const std::string expected =
      fmt::format("[package] {}: prefix: expected fewer than {} token ids from 0 to 49, got [50]",
                  (folder / "p/tandem.json").string(), model.info.context_length);
  EXPECT_EQ(refusal({50}), expected);
  EXPECT_FALSE(refusal({-1}).empty());
  EXPECT_FALSE(
      refusal(std::vector<std::int32_t>(static_cast<std::size_t>(model.info.context_length)))
          .empty());
}

}  // namespace
}  // namespace tandem
