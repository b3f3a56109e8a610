// What quantize writes: tensors, graphs, tandem.json, and what it refuses.
#include "quantize/quantize_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/version.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "models/model.h"
#include "quantize/calibration.h"
#include "quantize/rtn.h"
#include "quantize/tiny_checkpoint.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::names_in;
using testing::quantize_quickly;
using testing::quick_recipe;
using testing::read_manifest;
using testing::ScratchFolder;
using testing::write_bytes;
using testing::write_tiny_checkpoint;

using Tensors = std::map<std::string, Tensor>;

Tensors tensors_of(const fs::path& file) { return SafetensorsFile::open(file).tensors; }

bool same(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         std::ranges::equal(a.bytes(), b.bytes());
}

bool is_linear(const std::string& tensor) { return tensor.ends_with("_proj.weight"); }

std::string module_of(const std::string& tensor) { return tensor.substr(0, tensor.rfind('.')); }

const Node& find_node(const Graph& graph, Op op, const std::string& name) {
  const auto found = std::ranges::find_if(
      graph.nodes(), [&](const Node& node) { return node.op == op && node.name == name; });
  if (found == graph.nodes().end()) throw std::runtime_error("no node " + name);
  return *found;
}

const Weight& weight_of(const Graph& graph, const std::string& module) {
  return find_node(graph, Op::kLinear, module).as<LinearAttributes>().weight;
}

// Of the codes that an int8 Linear reads; 0: one for each token.
float input_scale(const Graph& graph, const std::string& module) {
  const ValueId codes = find_node(graph, Op::kLinear, module).inputs[0];
  for (const Node& node : graph.nodes())
    if (node.outputs.front() == codes && node.op == Op::kQuantize)
      return node.as<QuantizeAttributes>().scale;
  return 0;
}

Graph graph_of(const fs::path& package, Phase phase) {
  ThreadPool pool(1);
  return Package::open(package, pool).graph(phase);
}

TEST(QuantizeModel, TensorsAreThoseOfRoundToNearest) {
  const ScratchFolder folder;
  ThreadPool pool(2);
  Recipe recipe = default_recipe();
  recipe.calibration.samples = 2;
  recipe.calibration.window = 64;
  const QuantizeReport report = quantize_quickly(testing::demo_dir(), folder / "p", recipe);
  EXPECT_EQ(report.linears, 6 * 7 + 1);
  EXPECT_EQ(report.calibration_tokens, 2 * 64);
  EXPECT_EQ(report.decode_bytes, fs::file_size(folder / "p/decode.safetensors"));
  EXPECT_EQ(report.prefill_bytes, fs::file_size(folder / "p/prefill.safetensors"));
  ASSERT_EQ(report.passes.size(), 2u);
  EXPECT_EQ(report.passes[0].pass, "quantize_decode");
  EXPECT_EQ(report.passes[1].pass, "quantize_prefill");

  const Checkpoint checkpoint = Checkpoint::open(testing::demo_dir());
  const Tensors decode = tensors_of(folder / "p/decode.safetensors");
  const Tensors prefill = tensors_of(folder / "p/prefill.safetensors");
  std::size_t linears = 0;
  const auto expect_int4 = [&](const Tensor& weight, const std::string& module, int group) {
    const GroupCodes expected =
        quantize_group_codes(*stored_rows(weight), {.group = group}, module, pool);
    EXPECT_TRUE(same(decode.at(module + ".codes"), expected.codes)) << module;
    EXPECT_TRUE(same(decode.at(module + ".scales"), expected.scales)) << module;
    EXPECT_TRUE(same(decode.at(module + ".zero_points"), expected.zero_points)) << module;
  };
  for (const auto& [name, stored] : checkpoint.tensors()) {
    const Tensor tensor = checkpoint.load(name);
    if (!is_linear(name)) {
      // Norms and biases are kept as they are computed with.
      if (tensor.shape().size() == 2) {
        EXPECT_TRUE(same(decode.at(name), tensor)) << name;
      } else {
        EXPECT_EQ(decode.at(name).dtype(), DType::kF32) << name;
        EXPECT_EQ(decode.at(name).to_floats(), tensor.to_floats()) << name;
      }
      continue;
    }
    ++linears;
    EXPECT_FALSE(decode.contains(name)) << name;
    expect_int4(tensor, module_of(name), 128);
    const ChannelCodes expected = quantize_channel_codes(*stored_rows(tensor), name, pool);
    EXPECT_TRUE(same(prefill.at(module_of(name) + ".codes"), expected.codes)) << name;
    EXPECT_TRUE(same(prefill.at(module_of(name) + ".scales"), expected.scales)) << name;
  }
  // The tied head has int4 codes of its own beside the float table of the embedding.
  expect_int4(checkpoint.load("model.embed_tokens.weight"), "lm_head", 32);
  EXPECT_EQ(linears, 42u);
  EXPECT_EQ(decode.size(), checkpoint.tensors().size() + 2 * linears + 3);
  EXPECT_EQ(prefill.size(), 2 * linears);
}

TEST(QuantizeModel, ReadsBackWhatItWrote) {
  const ScratchFolder folder;
  write_tiny_checkpoint(folder / "c");
  quantize_quickly(folder / "c", folder / "p");
  EXPECT_TRUE(Package::is_package(folder / "p"));
  EXPECT_FALSE(Package::is_package(folder / "c"));
  ThreadPool pool(2);
  const Package package = Package::open(folder / "p", pool);
  EXPECT_EQ(package.chunk(), 32);
  EXPECT_EQ(package.info().hidden_size, 64);
  EXPECT_EQ(package.info().eos, (std::vector<std::int64_t>{4095, 4093}));
  for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json"})
    EXPECT_EQ(testing::read_bytes(folder / "c" / name), testing::read_bytes(folder / "p" / name));

  const Graph prefill = package.graph(Phase::kPrefill);
  const Graph decode = package.graph(Phase::kDecode);
  const std::string module = "model.layers.1.mlp.down_proj";
  EXPECT_EQ(describe(weight_of(prefill, module)), "int8 [64, 128]");
  EXPECT_EQ(describe(weight_of(decode, module)), "int4 g64 [64, 128]");
  EXPECT_EQ(describe(weight_of(prefill, "lm_head")), "int4 g32 [4096, 64]");
  EXPECT_EQ(describe(weight_of(decode, "lm_head")), "int4 g32 [4096, 64]");
  EXPECT_GT(input_scale(prefill, module), 0);

  // On disk: decode reads its file whole; prefill its own file and what it has no form of.
  const auto bytes = [&](const char* file, const auto& counts) {
    std::int64_t sum = 0;
    for (const auto& [name, tensor] : tensors_of(folder / "p" / file))
      if (counts(name)) sum += static_cast<std::int64_t>(tensor.bytes().size());
    return sum;
  };
  const auto all = [](const std::string&) { return true; };
  const auto shared = [](const std::string& name) {
    return name.starts_with("lm_head.") || name.ends_with(".weight") || name.ends_with(".bias");
  };
  EXPECT_EQ(tensor_bytes(decode), bytes(kDecodeFile, all));
  EXPECT_EQ(tensor_bytes(prefill), bytes(kPrefillFile, all) + bytes(kDecodeFile, shared));
}

TEST(QuantizeModel, ManifestSaysHowItWasMade) {
  const ScratchFolder folder;
  write_tiny_checkpoint(folder / "c");
  Recipe recipe = quick_recipe();
  recipe.calibration.input_bound = InputBound::kMax;
  quantize_quickly(folder / "c", folder / "p", recipe);
  const Json manifest = read_manifest(folder / "p");
  EXPECT_EQ(manifest["format"], 2);
  EXPECT_EQ(manifest["tandem"], build_version());
  EXPECT_EQ(manifest["model"]["model_type"], "qwen2");
  EXPECT_EQ(manifest["model"]["layers"], 2);
  EXPECT_FALSE(manifest.contains("scales"));
  EXPECT_FALSE(manifest.contains("placement"));
  const Json& kept = manifest["recipe"];
  EXPECT_EQ(kept["passes"], Json::array());
  EXPECT_EQ(kept["rules"][0]["match"], "*");
  EXPECT_EQ(kept["rules"][0]["decode"]["weights"], "uint4");
  EXPECT_EQ(kept["rules"][0]["decode"]["group"], 64);
  EXPECT_EQ(kept["rules"][0]["prefill"]["activations"], "static");
  EXPECT_EQ(kept["rules"][1]["match"], "lm_head");
  EXPECT_EQ(kept["rules"][1]["decode"]["group"], 32);
  EXPECT_EQ(kept["rules"][1]["prefill"], "decode");
  EXPECT_EQ(kept["chunk"], 32);
  EXPECT_EQ(kept["calibration"]["input_scale"], "max");
  EXPECT_EQ(kept["calibration"]["file"], "calibration.txt");
  EXPECT_EQ(kept["calibration"]["windows"], 2);
  EXPECT_EQ(kept["calibration"]["window_tokens"], 32);
  EXPECT_EQ(kept["calibration"]["hash"],
            content_hash(testing::read_bytes(testing::demo_dir() / "calibration.txt")));

  const std::vector<std::string> names = names_in(folder / "p");
  EXPECT_EQ(manifest["files"].size() + 1, names.size());
  for (const auto& [name, entry] : manifest["files"].items()) {
    EXPECT_TRUE(std::ranges::binary_search(names, name));
    EXPECT_EQ(entry["bytes"], fs::file_size(folder / "p" / name));
  }
}

// What the graphs hold is what calibration found, by the recipe's rule.
TEST(QuantizeModel, InputScalesAreThoseOfCalibration) {
  const ScratchFolder folder;
  write_tiny_checkpoint(folder / "c");
  const Checkpoint checkpoint = Checkpoint::open(folder / "c");
  const Graph real = build_graph(checkpoint.config_object(), CheckpointWeights(checkpoint));
  const auto ids = Tokenizer::open(folder / "c")
                       .encode(testing::read_bytes(testing::demo_dir() / "calibration.txt"));
  ThreadPool pool(2);
  const auto statistics = calibrate(real, cut_windows(ids, 32, 2), pool, {});
  for (const InputBound bound :
       {InputBound::kMax, InputBound::kPercentile, InputBound::kLeastError}) {
    Recipe recipe = quick_recipe();
    recipe.calibration.input_bound = bound;
    quantize_quickly(folder / "c", folder / "p", recipe);
    const Graph prefill = graph_of(folder / "p", Phase::kPrefill);
    EXPECT_EQ(statistics.size(), 2u * 7);
    for (const auto& [module, input] : statistics) {
      const float reach = bound == InputBound::kMax          ? input.max
                          : bound == InputBound::kPercentile ? input.percentile
                                                             : input.least_error;
      EXPECT_EQ(input_scale(prefill, module), reach / 127.0F) << module << " " << to_string(bound);
      EXPECT_LE(input.percentile, input.max) << module;
    }
    // Query, key and value read the same codes.
    const std::string attention = "model.layers.0.self_attn.";
    EXPECT_EQ(find_node(prefill, Op::kLinear, attention + "q_proj").inputs,
              find_node(prefill, Op::kLinear, attention + "k_proj").inputs);
  }
}

TEST(QuantizeModel, ExcludedModulesStayFloatInBothPhases) {
  const ScratchFolder folder;
  write_tiny_checkpoint(folder / "c", {.intermediate = 96});
  Recipe recipe = quick_recipe();
  const std::string message =
      error_of([&] { quantize_quickly(folder / "c", folder / "p", recipe); });
  EXPECT_NE(message.find("model.layers.0.mlp.down_proj"), std::string::npos) << message;
  EXPECT_NE(message.find("K = 96"), std::string::npos) << message;
  EXPECT_NE(message.find("group size 64"), std::string::npos) << message;
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"c"});

  recipe.rules.push_back(exclude("*.down_proj"));
  quantize_quickly(folder / "c", folder / "p", recipe);
  const Tensors decode = tensors_of(folder / "p/decode.safetensors");
  const Tensors prefill = tensors_of(folder / "p/prefill.safetensors");
  const std::string module = "model.layers.0.mlp.down_proj";
  EXPECT_TRUE(decode.contains(module + ".weight"));
  EXPECT_FALSE(decode.contains(module + ".codes"));
  EXPECT_FALSE(prefill.contains(module + ".codes"));
  EXPECT_FALSE(prefill.contains(module + ".weight"));
  EXPECT_TRUE(prefill.contains("model.layers.0.mlp.up_proj.codes"));
  const Graph graph = graph_of(folder / "p", Phase::kPrefill);
  EXPECT_EQ(input_scale(graph, module), 0);
  EXPECT_GT(input_scale(graph, "model.layers.0.mlp.up_proj"), 0);
  EXPECT_EQ(describe(weight_of(graph, module)), "f32 [64, 96]");

  recipe.rules.push_back(exclude("*.donw_proj"));
  const std::string slip = error_of([&] { quantize_quickly(folder / "c", folder / "q", recipe); });
  EXPECT_NE(slip.find("\"*.donw_proj\" matches no module"), std::string::npos) << slip;
}

TEST(QuantizeModel, HeadMayStayFloat) {
  const ScratchFolder folder;
  write_tiny_checkpoint(folder / "c");
  Recipe recipe = default_recipe(64, 0);
  recipe.calibration = quick_recipe().calibration;
  quantize_quickly(folder / "c", folder / "p", recipe);
  for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
    const Graph graph = graph_of(folder / "p", phase);
    const Node& head = graph.nodes().back();
    ASSERT_EQ(head.name, "lm_head");
    EXPECT_EQ(describe(head.as<LinearAttributes>().weight), "f32 [4096, 64]");
  }
  // The embedding's table serves both.
  EXPECT_FALSE(tensors_of(folder / "p" / kDecodeFile).contains("lm_head.weight"));
  EXPECT_FALSE(tensors_of(folder / "p" / kPrefillFile).contains("lm_head.weight"));
}

TEST(QuantizeModel, RefusesRecipesThatMakeNoSense) {
  const ScratchFolder folder;
  write_tiny_checkpoint(folder / "c");
  const auto message = [&](const auto& change) {
    Recipe recipe = quick_recipe();
    change(recipe);
    return error_of([&] { quantize_quickly(folder / "c", folder / "p", recipe); });
  };
  EXPECT_NE(message([](Recipe& r) { r.rules[0].decode->group = 48; }).find("group size 48"),
            std::string::npos);
  EXPECT_NE(message([](Recipe& r) { r.rules[1].decode->group = 48; }).find("lm_head"),
            std::string::npos);
  EXPECT_NE(message([](Recipe& r) { r.chunk = 0; }).find("chunk"), std::string::npos);
  EXPECT_NE(message([](Recipe& r) { r.chunk = 1 << 20; }).find("chunk"), std::string::npos);
  EXPECT_NE(message([](Recipe& r) { r.calibration.samples = 0; }).find("[calibrate]"),
            std::string::npos);
  EXPECT_NE(message([](Recipe& r) { r.calibration.window = 0; }).find("[calibrate]"),
            std::string::npos);
  EXPECT_NE(message([](Recipe& r) { r.passes = {{"unroll"}}; }).find("\"unroll\""),
            std::string::npos);
  // The head stands outside the blocks, which alone are calibrated.
  const std::string head = message([](Recipe& r) { r.rules.pop_back(); });
  EXPECT_NE(head.find("lm_head: stands outside the decoder blocks"), std::string::npos) << head;

  write_bytes(folder / "short.txt", "Once upon");
  ThreadPool pool(1);
  const auto build = [&](const fs::path& text) {
    return error_of([&] {
      quantize_model({.checkpoint = folder / "c",
                      .calibration = text,
                      .target = folder / "p",
                      .recipe = quick_recipe()},
                     pool, silent());
    });
  };
  EXPECT_NE(build(folder / "short.txt").find("expected at least one window of 32"),
            std::string::npos);
  EXPECT_NE(build(folder / "none.txt").find("none.txt"), std::string::npos);
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"c", "short.txt"}));
}

// Said, since a text of one's own serves better, and recorded.
TEST(QuantizeModel, CalibratesOnABuiltInTextIfThereIsNone) {
  const ScratchFolder folder;
  class Warnings : public Observer {
   public:
    void warn(std::string_view message) override { all += message; }
    std::string all;
  } warnings;
  ThreadPool pool(2);
  Recipe recipe = default_recipe();
  recipe.calibration = {.samples = 2, .window = 64};
  const QuantizeReport report = quantize_model({.checkpoint = testing::demo_dir(),
                                                .calibration = {},
                                                .target = folder / "p",
                                                .recipe = recipe},
                                               pool, warnings);
  EXPECT_EQ(report.calibration_tokens, 128);
  EXPECT_NE(warnings.all.find("built-in text"), std::string::npos) << warnings.all;
  EXPECT_EQ(read_manifest(folder / "p")["recipe"]["calibration"]["file"], "built-in");
}

TEST(QuantizeModel, NeedsNoTextWithoutStaticScales) {
  const ScratchFolder folder;
  write_tiny_checkpoint(folder / "c");
  Recipe recipe = quick_recipe();
  recipe.rules[0].prefill->activations = ActivationType::kDynamic;
  ThreadPool pool(1);
  const QuantizeReport report = quantize_model(
      {.checkpoint = folder / "c", .calibration = {}, .target = folder / "p", .recipe = recipe},
      pool, silent());
  EXPECT_EQ(report.calibration_tokens, 0);
  EXPECT_FALSE(read_manifest(folder / "p")["recipe"]["calibration"].contains("file"));
}

TEST(QuantizeModel, DumpsTheGraphAfterAPass) {
  const ScratchFolder folder;
  write_tiny_checkpoint(folder / "c");
  ThreadPool pool(1);
  Recipe recipe = quick_recipe();
  recipe.passes = {{"fold_norms"}};
  std::vector<std::string> dumped;
  const auto quantize = [&](const std::string& after) {
    dumped.clear();
    quantize_model({.checkpoint = folder / "c",
                    .calibration = testing::demo_dir() / "calibration.txt",
                    .target = folder / "p",
                    .recipe = recipe,
                    .dump_after = after,
                    .dump = [&](const Graph& graph) { dumped.push_back(dump(graph)); }},
                   pool, silent());
  };
  quantize("");
  EXPECT_TRUE(dumped.empty());
  for (const auto& [pass, part] : {std::pair("fold_norms", "lm_head f32 [4096, 64]"),
                                   std::pair("quantize_decode", "up_proj int4 g64 [128, 64]"),
                                   std::pair("quantize_prefill", "up_proj int8 [128, 64]")}) {
    quantize(pass);
    ASSERT_EQ(dumped.size(), 1u) << pass;
    EXPECT_NE(dumped[0].find(part), std::string::npos) << dumped[0];
  }
  fs::remove_all(folder / "p");
  EXPECT_EQ(error_of([&] { quantize("untie_head"); }),
            "[quantize] dump after \"untie_head\": expected one of fold_norms, quantize_decode, "
            "quantize_prefill");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"c"});
}

class QuantizeModelTarget : public ::testing::Test {
 protected:
  void SetUp() override { write_tiny_checkpoint(folder_ / "c"); }
  std::string refusal(const fs::path& target) {
    return error_of([&] { quantize_quickly(folder_ / "c", target); });
  }
  ScratchFolder folder_;
};

TEST_F(QuantizeModelTarget, IsNeverSomebodysFolder) {
  fs::create_directories(folder_ / "home");
  write_bytes(folder_ / "home/letter.txt", "Dear");
  EXPECT_NE(refusal(folder_ / "home").find("it has no tandem.json"), std::string::npos);
  write_bytes(folder_ / "home/tandem.json", "{}");
  EXPECT_NE(refusal(folder_ / "home").find("home"), std::string::npos);
  EXPECT_EQ(testing::read_bytes(folder_ / "home/letter.txt"), "Dear");
  EXPECT_NE(refusal(folder_ / "c").find("is the checkpoint"), std::string::npos);
  EXPECT_NE(refusal(folder_ / "home/../c/.").find("is the checkpoint"), std::string::npos);
  EXPECT_NE(refusal(folder_ / "home/letter.txt").find("is not a folder"), std::string::npos);
  EXPECT_NE(refusal("").find("expected the name of a folder"), std::string::npos);
  EXPECT_EQ(names_in(folder_.path()), (std::vector<std::string>{"c", "home"}));
}

TEST_F(QuantizeModelTarget, MayBeAbsentEmptyOrAPackage) {
  quantize_quickly(folder_ / "c", folder_ / "new/deep/p/");
  EXPECT_EQ(names_in(folder_ / "new/deep"), std::vector<std::string>{"p"});
  fs::create_directories(folder_ / "empty");
  quantize_quickly(folder_ / "c", folder_ / "empty");
  EXPECT_TRUE(Package::is_package(folder_ / "empty"));
  quantize_quickly(folder_ / "c", folder_ / "empty/", quick_recipe(32));
  EXPECT_EQ(read_manifest(folder_ / "empty")["recipe"]["rules"][0]["decode"]["group"], 32);
  EXPECT_EQ(names_in(folder_.path()), (std::vector<std::string>{"c", "empty", "new"}));

  write_bytes(folder_ / "empty/notes.txt", "mine");
  EXPECT_NE(refusal(folder_ / "empty").find("it holds notes.txt"), std::string::npos);
  fs::remove(folder_ / "empty/notes.txt");
  write_bytes(folder_ / "empty/tandem.json", "{");
  EXPECT_NE(refusal(folder_ / "empty").find("tandem.json"), std::string::npos);
}

// Counts how often it is asked whether the work is still wanted, and says no at one of them.
class Impatient : public Observer {
 public:
  explicit Impatient(int stop) : stop_(stop) {}
  bool cancelled() const override { return ++steps_ >= stop_; }
  int steps() const { return steps_; }

 private:
  int stop_;
  mutable int steps_ = 0;
};

TEST_F(QuantizeModelTarget, IsAsItWasAfterAnInterruption) {
  quantize_quickly(folder_ / "c", folder_ / "p");
  const std::string before = testing::read_bytes(folder_ / "p/tandem.json");
  ThreadPool pool(2);
  Recipe recipe = quick_recipe(32);
  recipe.passes = {{"fold_norms"}};
  const auto quantize = [&](const char* target, Observer& observer) {
    quantize_model({.checkpoint = folder_ / "c",
                    .calibration = testing::demo_dir() / "calibration.txt",
                    .target = folder_ / target,
                    .recipe = recipe},
                   pool, observer);
  };
  Impatient patient(1000);
  quantize("q", patient);
  const int all = patient.steps();
  ASSERT_GT(all, 10);
  for (int stop = 1; stop <= all; stop += 3) {
    Impatient observer(stop);
    try {
      quantize("p", observer);
      ADD_FAILURE() << "not interrupted at step " << stop;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCancelled);
    }
    EXPECT_EQ(observer.steps(), stop);
    EXPECT_EQ(testing::read_bytes(folder_ / "p/tandem.json"), before);
    EXPECT_EQ(names_in(folder_.path()), (std::vector<std::string>{"c", "p", "q"}));
  }
}

}  // namespace
}  // namespace tandem
