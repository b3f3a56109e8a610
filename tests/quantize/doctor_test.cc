// What single Linears and whole models lose, against running their graphs whole; and which forms
// are chosen instead.
#include "quantize/doctor.h"

#include <gtest/gtest.h>

#include <cmath>

#include "graph/rewriter.h"
#include "quantize/demo_graph.h"
#include "quantize/planted.h"
#include "quantize/quality_gate.h"
#include "quantize/run_graph.h"
#include "quantize/tiny_checkpoint.h"

namespace tandem::testing {
namespace {

constexpr std::size_t kVocabulary = 4096;

// The last windows of the demo's text, which no other test calibrates on.
CalibrationWindows last_windows(std::int64_t count, std::int64_t window) {
  const CalibrationWindows all = demo_windows(1000, window);
  return {{all.ids.end() - count * window, all.ids.end()}, window};
}

// Of each window's tokens but the last.
std::vector<float> scored_logits(const Graph& graph, const CalibrationWindows& windows) {
  std::vector<float> all;
  for (std::int64_t first = 0; first < windows.tokens(); first += windows.window) {
    const std::vector<float> logits = run_graph(
        graph,
        std::span(windows.ids)
            .subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(windows.window)));
    all.insert(all.end(), logits.begin(), logits.end() - static_cast<std::ptrdiff_t>(kVocabulary));
  }
  return all;
}

Graph with_one(const Graph& graph, const std::string& module, const Scheme& scheme,
               const std::map<std::string, InputStatistics>& statistics) {
  ThreadPool pool(2);
  const Recipe recipe{.rules = {{.match = module, .decode = scheme}}};
  MemorySink sink;
  LinearQuantizer quantizer(recipe, statistics, sink);
  PassContext context{pool, silent()};
  return quantizer.decode(graph, context);
}

// The output of a Linear, or of what replaced it, on the first window.
std::vector<float> output_of(Graph graph, const std::string& name,
                             const CalibrationWindows& windows) {
  const auto node = std::ranges::find(graph.nodes(), name, &Node::name);
  graph.set_outputs({node->output()});
  return run_graph(graph, std::span(windows.ids).first(static_cast<std::size_t>(windows.window)));
}

double sqnr(const std::vector<float>& expected, const std::vector<float>& got) {
  double signal = 0, noise = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    signal += double{expected[i]} * expected[i];
    noise += std::pow(double{expected[i]} - got[i], 2);
  }
  return 10 * std::log10(signal / noise);
}

const Slot& slot_of(const std::vector<Slot>& slots, const std::string& module, SlotPhase phase) {
  for (const Slot& slot : slots)
    if (slot.module == module && slot.phase == phase) return slot;
  throw std::runtime_error("no slot of " + module);
}

// One Linear at a time in a graph that is run whole, as no part of the doctor does it.
TEST(Doctor, FindsWhatEachLinearLosesByItself) {
  ThreadPool pool(2);
  const DemoGraph demo;
  const Graph& graph = demo.graph();
  const auto statistics = calibrate(graph, demo_windows(2, 64), pool, {});
  const CalibrationWindows windows = last_windows(3, 32);
  const Recipe recipe = default_recipe();
  Doctor doctor(graph, graph, recipe, statistics, windows, pool);
  std::vector<Slot> slots = doctor.slots(true, silent());
  // 42 Linears in two forms, and the head in one.
  ASSERT_EQ(slots.size(), 42U * 2 + 1);
  const std::vector<float> expected = scored_logits(graph, windows);
  const CalibrationWindows one{{windows.ids.begin(), windows.ids.begin() + 32}, 32};
  Doctor of_one(graph, graph, recipe, statistics, one, pool);
  const std::vector<Slot> slots_of_one = of_one.slots(true, silent());
  for (const auto& [module, phase] :
       {std::pair{"model.layers.0.self_attn.v_proj", SlotPhase::kDecode},
        std::pair{"model.layers.3.mlp.down_proj", SlotPhase::kPrefill},
        std::pair{"model.layers.5.mlp.down_proj", SlotPhase::kDecode},
        std::pair{"lm_head", SlotPhase::kBoth}}) {
    const Form& form = slot_of(slots, module, phase).form();
    const Graph changed = with_one(graph, module, form.scheme, statistics);
    const double kl = divergence(expected, scored_logits(changed, windows), kVocabulary);
    EXPECT_GT(form.kl, 0) << module;
    EXPECT_NEAR(form.kl, kl, 1e-6 + kl * 0.01) << module;
    if (module == std::string("lm_head")) continue;
    const std::string after =
        std::string(module) + (phase == SlotPhase::kPrefill ? ".dequantize" : "");
    EXPECT_NEAR(slot_of(slots_of_one, module, phase).form().sqnr,
                sqnr(output_of(graph, module, one), output_of(changed, after, one)), 0.05)
        << module;
  }
  // Twice the bits and a scale for each token lose less; float loses nothing.
  doctor.add_alternatives(slots, false, silent());
  const Slot& values = slot_of(slots, "model.layers.0.self_attn.v_proj", SlotPhase::kDecode);
  const auto form = [&](const std::string& name) {
    return *std::ranges::find_if(values.forms,
                                 [&](const Form& each) { return describe(each.scheme) == name; });
  };
  EXPECT_EQ(values.forms.front().bytes, 128 * 128 + 128 * 2 * 2 + 128);
  EXPECT_LT(form("int8 dynamic").kl, form("uint4 g32").kl);
  EXPECT_LT(form("uint4 g32").kl, form("uint4 g128").kl);
  EXPECT_EQ(form("float").kl, 0);
  EXPECT_TRUE(std::isinf(form("float").sqnr));
  EXPECT_EQ(form("float").bytes, 128 * 256 * 2);
}

TEST(Doctor, FindsWhatAWholeModelLoses) {
  ThreadPool pool(2);
  const DemoGraph demo;
  const auto statistics = calibrate(demo.graph(), demo_windows(2, 64), pool, {});
  const CalibrationWindows windows = last_windows(2, 64);
  const Recipe recipe = default_recipe();
  MemorySink sink;
  LinearQuantizer quantizer(recipe, statistics, sink);
  PassContext context{pool, silent()};
  const std::vector<float> expected = scored_logits(demo.graph(), windows);
  Doctor doctor(demo.graph(), demo.graph(), recipe, statistics, windows, pool);
  for (const bool prefill : {false, true}) {
    const auto phase = prefill ? &ModulePlan::prefill : &ModulePlan::decode;
    const double kl = divergence(expected,
                                 scored_logits(prefill ? quantizer.prefill(demo.graph(), context)
                                                       : quantizer.decode(demo.graph(), context),
                                               windows),
                                 kVocabulary);
    const VariantLoss loss = doctor.whole(quantizer, phase, silent());
    EXPECT_NEAR(loss.kl.mean(), kl, 1e-6 + kl * 0.01);
    EXPECT_GT(loss.agreement, 0.8);
    EXPECT_LT(loss.agreement, 1);
  }
  // Nothing is quantized, nothing is lost.
  const Recipe none{.rules = {exclude("*")}};
  LinearQuantizer untouched(none, statistics, sink);
  const VariantLoss loss = doctor.whole(untouched, &ModulePlan::decode, silent());
  EXPECT_EQ(loss.kl.mean(), 0);
  EXPECT_EQ(loss.kl.quantile(1), 0);
  EXPECT_EQ(loss.agreement, 1);
}

Slot slot(const std::string& module, double kl, std::int64_t bytes, double better,
          std::int64_t larger) {
  Slot slot{module, SlotPhase::kDecode};
  slot.forms.push_back({.scheme = {WeightType::kUint4, 128}, .kl = kl, .bytes = bytes});
  slot.forms.push_back({.scheme = {WeightType::kUint4, 32}, .kl = better, .bytes = larger});
  slot.forms.push_back({.scheme = {}, .bytes = 4 * bytes});
  return slot;
}

TEST(ChooseForms, BuysTheMostForAByteWithinTheBudget) {
  const auto all = [](const Slot&) { return true; };
  const auto never = [] { return false; };
  // Gains for a byte: 0.4 / 10 and 0.6 / 300; 0.1 / 10 and 0.3 / 300; 0.01 / 10 and 1 / 300.
  const std::vector<Slot> slots = {slot("a", 0.6, 100, 0.2, 110), slot("b", 0.3, 100, 0.2, 110),
                                   slot("c", 1.0, 100, 0.99, 110)};
  const auto chosen = [&](std::int64_t budget, const auto& counts, const auto& enough) {
    std::vector<Slot> copy = slots;
    const bool any = choose_forms(copy, budget, counts, enough);
    EXPECT_LE(added_bytes(copy), budget);
    EXPECT_EQ(any, copy[0].chosen + copy[1].chosen + copy[2].chosen > 0);
    return std::vector<std::size_t>{copy[0].chosen, copy[1].chosen, copy[2].chosen};
  };
  EXPECT_EQ(chosen(0, all, never), (std::vector<std::size_t>{0, 0, 0}));
  EXPECT_EQ(chosen(10, all, never), (std::vector<std::size_t>{1, 0, 0}));
  EXPECT_EQ(chosen(25, all, never), (std::vector<std::size_t>{1, 1, 0}));
  EXPECT_EQ(chosen(320, all, never), (std::vector<std::size_t>{1, 1, 2}));
  // What was bettered once may be bettered again.
  EXPECT_EQ(chosen(900, all, never), (std::vector<std::size_t>{2, 2, 2}));
  EXPECT_EQ(chosen(
                900, [](const Slot& each) { return each.module == "b"; }, never),
            (std::vector<std::size_t>{0, 2, 0}));
  // At least one, since whoever asks was not content.
  EXPECT_EQ(chosen(900, all, [] { return true; }), (std::vector<std::size_t>{1, 0, 0}));
  EXPECT_EQ(recipe_bytes(slots), 300);
}

TEST(ChooseForms, BecomesRules) {
  std::vector<Slot> slots = {slot("a", 0.6, 100, 0.2, 110), slot("b", 0.3, 100, 0.2, 110),
                             slot("c", 1.0, 100, 0.9, 110)};
  slots[0].chosen = 1;
  slots[1].chosen = 2;
  slots[1].phase = SlotPhase::kBoth;
  slots[2].chosen = 1;
  slots[2].phase = SlotPhase::kPrefill;
  Recipe recipe = default_recipe();
  const ModulePlan before = resolve(recipe, "a");
  for (const Rule& rule : rules_of(slots)) recipe.rules.push_back(rule);
  EXPECT_EQ(resolve(recipe, "a").decode, (Scheme{WeightType::kUint4, 32}));
  EXPECT_EQ(resolve(recipe, "a").prefill, before.prefill);
  EXPECT_EQ(resolve(recipe, "b").decode, Scheme{});
  EXPECT_EQ(resolve(recipe, "b").prefill, Scheme{});
  EXPECT_EQ(resolve(recipe, "c").decode, before.decode);
  EXPECT_EQ(resolve(recipe, "c").prefill, (Scheme{WeightType::kUint4, 32}));
}

// Norms, values and gated products with channels far above the others, as DESIGN plants them.
TEST(QualityGate, RepairsPlantedOutliersWithinItsBudget) {
  ThreadPool pool(2);
  const DemoGraph demo;
  const CalibrationWindows windows = last_windows(4, 64);
  for (const auto& [absorber, limit] :
       {std::pair{Absorber::kNorm, 0.08}, std::pair{Absorber::kLinear, 0.03}}) {
    const Graph graph = planted(demo.graph(), absorber, 50);
    const auto statistics = calibrate(graph, demo_windows(4, 64), pool, {});
    const Recipe plain = default_recipe();
    Recipe recipe = plain;
    MemorySink sink;
    LinearQuantizer quantizer(recipe, statistics, sink);
    const GateOptions options{.max_kl = limit};
    const GateReport report = pass_gate(options, {demo.graph(), graph, statistics}, windows, recipe,
                                        quantizer, pool, silent());
    EXPECT_GT(report.prefill_before->kl, 2 * options.max_kl);
    EXPECT_TRUE(report.passed()) << report.decode.kl << " " << report.prefill->kl;
    EXPECT_LE(report.added_bytes, report.bytes / 10);
    EXPECT_GT(recipe.rules.size(), plain.rules.size());
    // The recipe alone gives what was measured, in a graph run whole.
    LinearQuantizer again(recipe, statistics, sink);
    PassContext context{pool, silent()};
    EXPECT_LE(divergence(scored_logits(demo.graph(), windows),
                         scored_logits(again.prefill(graph, context), windows), kVocabulary),
              options.max_kl * 1.01);
  }
}

TEST(QualityGate, LeavesWhatIsGoodEnough) {
  ThreadPool pool(2);
  const DemoGraph demo;
  const auto statistics = calibrate(demo.graph(), demo_windows(4, 64), pool, {});
  Recipe recipe = default_recipe();
  MemorySink sink;
  LinearQuantizer quantizer(recipe, statistics, sink);
  const GateReport report = pass_gate({.max_kl = 1}, {demo.graph(), demo.graph(), statistics},
                                      last_windows(2, 64), recipe, quantizer, pool, silent());
  EXPECT_TRUE(report.passed());
  EXPECT_TRUE(report.slots.empty());
  EXPECT_EQ(recipe.rules.size(), 2U);
}

TEST(QualityGate, WritesNothingThatIsNotGoodEnough) {
  const ScratchFolder folder;
  write_tiny_checkpoint(folder / "c");
  quantize_quickly(folder / "c", folder / "there");
  const auto before = names_in(folder / "there");
  ThreadPool pool(2);
  for (const char* target : {"there", "none"}) {
    QuantizeOptions options{.checkpoint = folder / "c",
                            .calibration = demo_dir() / "calibration.txt",
                            .target = folder / target,
                            .recipe = quick_recipe(),
                            .gate = GateOptions{.max_kl = 0}};
    const QuantizeReport report = quantize_model(options, pool, silent());
    ASSERT_TRUE(report.gate);
    EXPECT_FALSE(report.gate->passed());
    EXPECT_EQ(report.gate->text, "calibration.txt, held back from calibration");
    EXPECT_LE(report.gate->added_bytes, report.gate->bytes / 10);
    EXPECT_EQ(report.decode_bytes, 0);
  }
  EXPECT_EQ(names_in(folder / "there"), before);
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"c", "there"}));
}

// A recipe that needs no text, as exports have: float is all that can be exported instead.
TEST(QualityGate, HoldsExportsToo) {
  const ScratchFolder folder;
  write_tiny_checkpoint(folder / "c");
  ThreadPool pool(2);
  QuantizeOptions options{.checkpoint = folder / "c",
                          .calibration = demo_dir() / "calibration.txt",
                          .target = folder / "good",
                          .export_style = PackedStyle{},
                          .recipe = default_recipe(64, 0),
                          .gate = GateOptions{.max_kl = 100, .max_size_increase_percent = 1000}};
  options.recipe.calibration.window = 64;
  const double plain = quantize_model(options, pool, silent()).gate->decode.kl;
  EXPECT_GT(plain, 0);
  options.gate->max_kl = plain / 2;
  options.target = folder / "e";
  const QuantizeReport report = quantize_model(options, pool, silent());
  EXPECT_TRUE(report.gate->passed());
  EXPECT_FALSE(report.gate->prefill);
  EXPECT_EQ(report.gate->text, "calibration.txt");
  EXPECT_FALSE(rules_of(report.gate->slots).empty());
  for (const Rule& rule : rules_of(report.gate->slots)) EXPECT_EQ(rule.decode, Scheme{});
  EXPECT_TRUE(fs::exists(folder / "e/config.json"));
}

// The codes of a checkpoint that is quantized already lose nothing more; its int8 prompts do.
TEST(QualityGate, HoldsWhatIsQuantizedAlready) {
  const ScratchFolder folder;
  ThreadPool pool(2);
  QuantizeOptions options{.checkpoint = demo_dir(),
                          .calibration = demo_dir() / "calibration.txt",
                          .target = folder / "awq",
                          .export_style = PackedStyle{PackedStyle::Layout::kAwq},
                          .recipe = default_recipe(128, 0)};
  quantize_model(options, pool, silent());
  options.checkpoint = folder / "awq";
  options.target = folder / "package";
  options.export_style.reset();
  options.recipe.calibration = {.samples = 8, .window = 64};
  options.gate = GateOptions{.max_kl = 100};
  const auto plain = quantize_model(options, pool, silent()).gate;
  ASSERT_TRUE(plain && plain->prefill);
  EXPECT_LT(std::abs(plain->decode.kl), 1e-6);
  options.gate->max_kl = plain->prefill->kl / 2;
  options.gate->max_size_increase_percent = 50;
  const auto repaired = quantize_model(options, pool, silent()).gate;
  ASSERT_TRUE(repaired);
  EXPECT_TRUE(repaired->passed()) << repaired->prefill->kl << " of " << plain->prefill->kl;
  for (const Slot& slot : repaired->slots) EXPECT_EQ(slot.phase, SlotPhase::kPrefill);
}

}  // namespace
}  // namespace tandem::testing
