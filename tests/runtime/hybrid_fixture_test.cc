// The logits that version 0.1.0 gave, to the last bit: fixtures/hybrid.
//
// Made with `tandem logits --kernels ref` of version 0.1.0, whose packages had format 1, on a
// package of models/demo: logits.safetensors has the rows "rows" of the logits of "ids" as modes
// hybrid and cpu gave them, case.json also the static input scales of that package. What the
// reference kernels compute, and in which order, is laid down, so that machines make no difference.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "models/model.h"
#include "package/write_package.h"
#include "quantize/quantize_linears.h"
#include "runtime/demo_package.h"

namespace tandem {
namespace {

using testing::all_logits;
using testing::demo_dir;

// Statistics from which quantizing makes the very scale: the largest value is near 127 times it.
InputStatistics statistics_of(float scale) {
  float bound = scale * 127;
  for (int step = 0; step < 8 && bound / 127.0F > scale; ++step)
    bound = std::nextafter(bound, 0.0F);
  for (int step = 0; step < 8 && bound / 127.0F < scale; ++step)
    bound = std::nextafter(bound, INFINITY);
  EXPECT_EQ(bound / 127.0F, scale);
  return {.max = bound};
}

class HybridFixture : public ::testing::Test {
 protected:
  void SetUp() override {
    case_ = read_json_file(testing::fixture("runtime/fixtures/hybrid/case.json"));
    ids_ = case_["ids"].get<std::vector<TokenId>>();
    const Checkpoint checkpoint = Checkpoint::open(demo_dir());
    const JsonObject config = checkpoint.config_object();
    const ModelInfo info = read_model_info(config, &checkpoint.generation_config());
    const Graph graph = build_graph(config, CheckpointWeights(checkpoint));

    Recipe recipe = default_recipe();
    recipe.calibration.input_bound = InputBound::kMax;
    std::map<std::string, InputStatistics> statistics;
    for (const auto& [module, scale] : case_["input_scales"].items())
      statistics[module] = statistics_of(scale.get<float>());
    MemorySink sink;
    LinearQuantizer quantizer(recipe, statistics, sink);
    PassContext context{pool_, silent()};
    const Graph prefill = quantizer.prefill(graph, context);
    const Graph decode = quantizer.decode(graph, context);
    check_scales(prefill);
    write_texts(checkpoint, folder_.path());
    write_package(folder_.path(),
                  {info, checkpoint.generation_config(), prefill, decode, to_json(recipe)}, pool_,
                  silent());
    model_ = LoadedModel::open(folder_.path(), pool_);
  }

  // Each Linear of the blocks reads codes of the scale that it read then.
  void check_scales(const Graph& graph) const {
    std::size_t linears = 0;
    for (const Node& node : graph.nodes()) {
      if (node.op != Op::kLinear || node.layer < 0) continue;
      const auto& quantization = graph.value(node.inputs[0]).quantization;
      ASSERT_TRUE(quantization) << node.name;
      EXPECT_EQ(quantization->scales.as<float>()[0],
                case_["input_scales"].at(node.name).get<float>())
          << node.name;
      ++linears;
    }
    EXPECT_EQ(linears, case_["input_scales"].size());
  }

  // The rows of `got`, [ids, vocabulary], that are kept; true if they are those of `mode`.
  bool is_as_stored(const std::vector<float>& got, const std::string& mode) const {
    const auto file = testing::fixture("runtime/fixtures/hybrid/logits.safetensors");
    const Tensor want = SafetensorsFile::open(file).tensors.at(mode);
    const auto vocabulary = static_cast<std::size_t>(model_->info().vocabulary);
    EXPECT_EQ(got.size(), ids_.size() * vocabulary);
    std::vector<float> rows;
    for (const std::size_t row : case_["rows"]) {
      const auto part = std::span(got).subspan(row * vocabulary, vocabulary);
      rows.insert(rows.end(), part.begin(), part.end());
    }
    return std::ranges::equal(rows, want.as<float>());
  }

  testing::ScratchFolder folder_;
  ThreadPool pool_{2};
  Json case_;
  std::vector<TokenId> ids_;
  std::shared_ptr<const LoadedModel> model_;
};

TEST_F(HybridFixture, GivesTheBitsOfVersion010) {
  for (const std::int64_t chunk : {128, 25, 8, 1}) {
    Engine hybrid(model_, plan_for(Mode::kHybrid), {.threads = 2, .chunk = chunk, .kernels = "ref"},
                  silent());
    EXPECT_TRUE(is_as_stored(all_logits(hybrid, ids_, Phase::kPrefill), "hybrid")) << chunk;
    // What writes answers in hybrid mode is what the whole of cpu mode is.
    EXPECT_TRUE(is_as_stored(all_logits(hybrid, ids_, Phase::kDecode), "cpu")) << chunk;
    Engine cpu(model_, plan_for(Mode::kCpu), {.threads = 1, .chunk = chunk, .kernels = "ref"},
               silent());
    EXPECT_TRUE(is_as_stored(all_logits(cpu, ids_), "cpu")) << chunk;
  }
}

}  // namespace
}  // namespace tandem
