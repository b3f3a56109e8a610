// What a package lost by module, against its own codes put into the float graph one by one; and
// recipes with repairs, against the packages made by them.
#include "quantize/examination.h"

#include <gtest/gtest.h>

#include "graph/rewriter.h"
#include "quantize/planted.h"
#include "quantize/run_graph.h"
#include "quantize/tiny_checkpoint.h"

namespace tandem::testing {
namespace {

constexpr std::int64_t kWindow = 32;

class Warnings : public Observer {
 public:
  void warn(std::string_view message) override { all += std::string(message) + '\n'; }
  std::string all;
};

class ExaminationTest : public ::testing::Test {
 protected:
  ExaminationTest() {
    write_tiny_checkpoint(folder_ / "c");
    const std::vector<std::int32_t> ids =
        tokenize_text(demo_dir() / "eval_stories.txt", Checkpoint::open(folder_ / "c"));
    windows_ = cut_windows(ids, kWindow, 2);
  }

  Package package(const char* name) { return Package::open(folder_ / name, pool_); }

  GateReport examine(const Package& package, std::optional<GateOptions> repairs = {},
                     const fs::path& text = demo_dir() / "calibration.txt",
                     const char* checkpoint = "c", Recipe* repaired = nullptr) {
    Examination examination({.checkpoint = folder_ / checkpoint,
                             .package = &package,
                             .calibration = text,
                             .repairs = std::move(repairs)},
                            pool_, warnings_);
    GateReport report = examination.run(windows_);
    if (repaired != nullptr) *repaired = examination.recipe();
    return report;
  }

  // Of every window's tokens but the last.
  std::vector<float> logits_of(const Graph& graph) const {
    std::vector<float> all;
    for (std::int64_t first = 0; first < windows_.tokens(); first += kWindow) {
      const std::vector<float> logits = run_graph(
          graph, std::span(windows_.ids)
                     .subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(kWindow)));
      all.insert(all.end(), logits.begin(), logits.end() - 4096);
    }
    return all;
  }

  ScratchFolder folder_;
  ThreadPool pool_{2};
  CalibrationWindows windows_;
  Warnings warnings_;
};

// The float graph with the weight that the other graph has for this Linear.
Graph with_weight_of(const Graph& graph, const Graph& packed, const std::string& module) {
  Rewriter rewriter(graph);
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    if (node.op != Op::kLinear || node.name != module) {
      rewriter.copy(id);
      continue;
    }
    auto linear = node.as<LinearAttributes>();
    linear.weight =
        std::ranges::find(packed.nodes(), module, &Node::name)->as<LinearAttributes>().weight;
    rewriter.copy(id, std::move(linear));
  }
  return std::move(rewriter).finish();
}

TEST_F(ExaminationTest, MeasuresThePackagesOwnCodes) {
  quantize_quickly(folder_ / "c", folder_ / "p");
  const Package made = package("p");
  const GateReport report = examine(made);
  EXPECT_EQ(warnings_.all, "");
  // 14 Linears in two forms, and the head in one.
  ASSERT_EQ(report.slots.size(), 14U * 2 + 1);
  EXPECT_EQ(report.windows, 2);
  EXPECT_EQ(report.added_bytes, 0);
  const Checkpoint checkpoint = Checkpoint::open(folder_ / "c");
  const Graph graph = build_graph(checkpoint.config_object(), CheckpointWeights(checkpoint));
  const Graph packed = made.graph(Phase::kDecode);
  const std::vector<float> expected = logits_of(graph);
  for (const Slot& slot : report.slots) {
    if (slot.phase == SlotPhase::kPrefill) continue;
    const double kl =
        divergence(expected, logits_of(with_weight_of(graph, packed, slot.module)), 4096);
    EXPECT_GT(kl, 0) << slot.module;
    EXPECT_NEAR(slot.form().kl, kl, 1e-7 + kl * 0.01) << slot.module;
  }
  // All at once, in both phases.
  const double decode = divergence(expected, logits_of(packed), 4096);
  EXPECT_NEAR(report.decode.kl, decode, 1e-7 + decode * 0.01);
  const double prefill = divergence(expected, logits_of(made.graph(Phase::kPrefill)), 4096);
  ASSERT_TRUE(report.prefill);
  EXPECT_NEAR(report.prefill->kl, prefill, 1e-7 + prefill * 0.01);
}

// What was saved when the package was made is not written again.
TEST_F(ExaminationTest, LeavesSavedRotationsAlone) {
  const fs::path saved = folder_ / "rotation.safetensors";
  Recipe recipe = quick_recipe();
  recipe.passes = {{"rotate", {{"save", saved.string()}}}};
  quantize_quickly(folder_ / "c", folder_ / "p", recipe);
  ASSERT_TRUE(fs::remove(saved));
  EXPECT_GT(examine(package("p")).slots.size(), 0U);
  EXPECT_FALSE(fs::exists(saved));
}

// Codes that passes chose on a text are found again, scales that they moved fall out of the figures.
TEST_F(ExaminationTest, RunsTheRecipesPassesAgain) {
  Recipe recipe = quick_recipe();
  recipe.passes = {{"awq"}, {"gptq"}};
  quantize_quickly(folder_ / "c", folder_ / "p", recipe);
  const Package made = package("p");
  const GateReport report = examine(made);
  EXPECT_EQ(warnings_.all, "");
  const Checkpoint checkpoint = Checkpoint::open(folder_ / "c");
  const Graph graph = build_graph(checkpoint.config_object(), CheckpointWeights(checkpoint));
  const double kl = divergence(logits_of(graph), logits_of(made.graph(Phase::kDecode)), 4096);
  EXPECT_NEAR(report.decode.kl, kl, 1e-7 + kl * 0.01);
  for (const Slot& slot : report.slots) EXPECT_LT(slot.form().kl, 4 * kl) << slot.module;
}

TEST_F(ExaminationTest, WritesRecipesWhosePackagesLoseLess) {
  quantize_quickly(folder_ / "c", folder_ / "p");
  Recipe recipe;
  const GateReport report = examine(package("p"), GateOptions{.max_share = 0.5},
                                    demo_dir() / "calibration.txt", "c", &recipe);
  ASSERT_TRUE(report.prefill && report.prefill_before);
  EXPECT_LT(report.decode.kl, report.decode_before.kl);
  EXPECT_LT(report.prefill->kl, report.prefill_before->kl);
  EXPECT_LE(report.added_bytes, report.bytes / 10);
  // What the text held is no part of a recipe, what was asked of it is.
  EXPECT_EQ(recipe.calibration.samples, quick_recipe().calibration.samples);
  EXPECT_EQ(recipe.rules.size(), 2 + rules_of(report.slots).size());
  EXPECT_GT(recipe.rules.size(), 2U);
  const Recipe read = parse_recipe(to_json(recipe).dump(), "recipe.json");
  quantize_quickly(folder_ / "c", folder_ / "q", read);
  const GateReport after = examine(package("q"));
  EXPECT_EQ(warnings_.all, "");
  EXPECT_NEAR(after.decode.kl, report.decode.kl, report.decode.kl * 1e-6);
  ASSERT_TRUE(after.prefill);
  EXPECT_NEAR(after.prefill->kl, report.prefill->kl, report.prefill->kl * 1e-6);
}

TEST_F(ExaminationTest, SaysWhatACheckpointWouldLose) {
  Examination examination({.checkpoint = folder_ / "c",
                           .recipe = quick_recipe(),
                           .calibration = demo_dir() / "calibration.txt",
                           .has_prefill = false},
                          pool_, warnings_);
  const GateReport report = examination.run(windows_);
  EXPECT_EQ(report.slots.size(), 15U);
  EXPECT_FALSE(report.prefill);
  quantize_quickly(folder_ / "c", folder_ / "p");
  EXPECT_EQ(examine(package("p")).decode.kl, report.decode.kl);
}

TEST_F(ExaminationTest, RefusesWhatDoesNotBelongTogether) {
  quantize_quickly(folder_ / "c", folder_ / "p");
  const Package made = package("p");
  const auto error = [&](const fs::path& text, const char* checkpoint) {
    return error_of([&] { examine(made, {}, text, checkpoint); });
  };
  const fs::path text = demo_dir() / "calibration.txt";
  EXPECT_NE(error({}, "c").find("p: was calibrated on calibration.txt: expected --calib"),
            std::string::npos);
  write_tiny_checkpoint(folder_ / "wide", {.hidden = 128});
  EXPECT_NE(error(text, "wide").find("hidden_size is 64, in "), std::string::npos);
  // The same sizes, but another weight.
  write_tiny_checkpoint(folder_ / "other");
  std::string bytes = read_bytes(folder_ / "other/model.safetensors");
  for (std::size_t i = bytes.size() - 4096; i < bytes.size(); i += 4) bytes[i + 3] ^= '\x80';
  write_bytes(folder_ / "other/model.safetensors", bytes);
  const std::string other = error(text, "other");
  EXPECT_NE(other.find("of 15 modules have other codes than its recipe makes of"),
            std::string::npos)
      << other;

  // Another text is enough for a warning.
  EXPECT_EQ(warnings_.all, "");
  examine(made, {}, demo_dir() / "eval_stories.txt");
  EXPECT_NE(warnings_.all.find("was calibrated on another text than"), std::string::npos);

  Json manifest = read_manifest(folder_ / "p");
  manifest["recipe"]["rules"] = "none";
  write_signed(folder_ / "p", manifest);
  const std::string spoiled = error_of([&] { recipe_of(package("p")); });
  EXPECT_NE(spoiled.find("tandem.json"), std::string::npos) << spoiled;
  EXPECT_NE(spoiled.find("rules: expected an array"), std::string::npos) << spoiled;
  Recipe recipe = quick_recipe();
  recipe.rules.push_back(exclude("*.no_such_proj"));
  EXPECT_NE(error_of([&] {
              Examination({.checkpoint = folder_ / "c", .recipe = recipe, .calibration = text},
                          pool_, warnings_);
            }).find("\"*.no_such_proj\" matches no module"),
            std::string::npos);
}

}  // namespace
}  // namespace tandem::testing
