// The driver of tandem quantize: passes, calibration, quantization, writing.
#include "quantize/quantize_model.h"

#include <algorithm>

#include "base/error.h"
#include "base/hash.h"
#include "base/printable.h"
#include "checkpoint/checkpoint.h"
#include "graph/finite.h"
#include "models/model.h"
#include "package/output_folder.h"
#include "package/package.h"
#include "package/write_package.h"
#include "quantize/calibration.h"
#include "quantize/passes.h"
#include "quantize/quantize_linears.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem {
namespace {

constexpr const char* kDecodePass = "quantize_decode";
constexpr const char* kPrefillPass = "quantize_prefill";

bool needs_calibration(const Recipe& recipe, const Graph& graph) {
  return std::ranges::any_of(graph.nodes(), [&](const Node& node) {
    if (node.op != Op::kLinear) return false;
    const ModulePlan plan = resolve(recipe, node.name);
    return plan.decode.activations == ActivationType::kStatic ||
           plan.prefill.activations == ActivationType::kStatic;
  });
}

void check_dump(const QuantizeOptions& options) {
  if (options.dump_after.empty()) return;
  std::string known;
  std::vector<std::string> names;
  for (const PassStep& step : options.recipe.passes) names.push_back(step.name);
  names.insert(names.end(), {kDecodePass, kPrefillPass});
  if (std::ranges::find(names, options.dump_after) != names.end()) return;
  for (const std::string& name : names)
    known += fmt::format("{}{}", known.empty() ? "" : ", ", name);
  fail(ErrorCode::kInvalidArgument, "[quantize] dump after \"{}\": expected one of {}",
       options.dump_after, known);
}

void check_chunk(const Recipe& recipe) {
  if (recipe.chunk < 1 || recipe.chunk > 4096)
    fail(ErrorCode::kInvalidArgument, "[quantize] chunk: expected 1 to 4096 rows, got {}",
         recipe.chunk);
}

void warn_of_left_out(const Checkpoint& checkpoint, const CheckpointWeights& weights,
                      Observer& observer) {
  std::vector<std::string> left_out;
  for (const auto& [name, shape] : checkpoint.contents())
    if (!weights.read().contains(name)) left_out.push_back(name);
  for (const auto& [name, tensor] : checkpoint.unread()) left_out.push_back(name);
  if (left_out.empty()) return;
  observer.warn(
      fmt::format("[quantize] {}: {} of its tensors are left out, being no part of the "
                  "model: {}",
                  checkpoint.path().string(), left_out.size(), first_of(left_out)));
}

// The text that was used for calibration, and the statistics of each Linear's input.
struct Calibrated {
  std::map<std::string, InputStatistics> statistics;
  std::int64_t tokens = 0;
  OrderedJson source;
};

Calibrated calibrate_model(const QuantizeOptions& options, const Checkpoint& checkpoint,
                           const Graph& graph, const ModelInfo& info, ThreadPool& pool,
                           Observer& observer) {
  if (options.calibration.empty())
    fail(ErrorCode::kInvalidArgument,
         "[quantize] static activations are calibrated: expected a text (--calib FILE)");
  const Tokenizer tokenizer = Tokenizer::open(checkpoint.text_path());
  const std::string text = read_text_file(options.calibration);
  const CalibrationSettings& settings = options.recipe.calibration;
  const CalibrationWindows windows = cut_windows(
      tokenizer.encode(text), std::min(settings.window, info.longest_sequence()), settings.samples);
  Calibrated result;
  result.tokens = static_cast<std::int64_t>(windows.ids.size());
  // Statistics change little with the last windows of a text, and much with its first.
  if (windows.window < settings.window || result.tokens < settings.samples * settings.window / 2) {
    observer.warn(fmt::format(
        "[quantize] {}: has text for {} windows of {} tokens ({} tokens) to calibrate on, fewer "
        "than the recipe's {} of {} ({})",
        options.calibration.string(), result.tokens / windows.window, windows.window, result.tokens,
        settings.samples, settings.window, settings.samples * settings.window));
  }
  result.source = {{"file", options.calibration.filename().string()},
                   {"hash", content_hash(text)},
                   {"windows", result.tokens / windows.window},
                   {"window_tokens", windows.window}};
  Task task(observer, "calibrate", graph.layers(), "blocks");
  result.statistics = calibrate(graph, windows, pool, [&](int, int) { task.advance(); });
  return result;
}

}  // namespace

QuantizeReport quantize_model(const QuantizeOptions& options, ThreadPool& pool,
                              Observer& observer) {
  const fs::path& target = options.target;
  check_chunk(options.recipe);
  check_dump(options);
  std::error_code ignored;
  if (fs::equivalent(target, options.checkpoint, ignored)) {
    fail(ErrorCode::kInvalidArgument, "[quantize] {}: is the checkpoint: choose another folder",
         target.string());
  }
  require_replaceable(target, "quantize", "a package", objection_to_package);
  const Checkpoint checkpoint = Checkpoint::open(options.checkpoint, {}, observer);
  const JsonObject config = checkpoint.config_object();
  const Json& generation = checkpoint.generation_config();
  const ModelInfo info = read_model_info(config, &generation, observer);

  PassContext context{pool, observer, options.dump_after, options.dump};
  std::vector<Pass> structural;
  for (const PassStep& step : options.recipe.passes) structural.push_back(make_pass(step));
  const CheckpointWeights weights(checkpoint);
  const Graph loaded = build_graph(config, weights);
  if (const auto bad = find_non_finite(loaded, pool, observer))
    fail(ErrorCode::kFormat, "[quantize] {}: {}", checkpoint.file_of(bad->tensor).string(),
         to_string(*bad));
  const Graph graph = run_passes(loaded, structural, context);
  check_recipe(options.recipe, graph);
  warn_of_left_out(checkpoint, weights, observer);

  // Before the long-running work, so that a folder that can't be written to is reported now.
  StagedFolder staged(target);
  Calibrated calibrated;
  if (needs_calibration(options.recipe, graph))
    calibrated = calibrate_model(options, checkpoint, graph, info, pool, observer);

  FileSink sink(staged.path());
  LinearQuantizer quantizer(options.recipe, calibrated.statistics, sink);
  const Pass decode_pass{kDecodePass,
                         [&](const Graph& g, PassContext& c) { return quantizer.decode(g, c); }};
  const Pass prefill_pass{kPrefillPass,
                          [&](const Graph& g, PassContext& c) { return quantizer.prefill(g, c); }};
  const Graph decode = run_passes(graph, {&decode_pass, 1}, context);
  const Graph prefill = run_passes(graph, {&prefill_pass, 1}, context);

  OrderedJson recipe = to_json(options.recipe);
  if (!calibrated.source.empty()) recipe["calibration"].update(calibrated.source);
  write_texts(checkpoint, staged.path(), observer);
  write_package(staged.path(), {info, generation, prefill, decode, std::move(recipe)}, pool,
                observer);
  QuantizeReport report;
  report.linears = std::ranges::count(graph.nodes(), Op::kLinear, &Node::op);
  report.calibration_tokens = calibrated.tokens;
  report.decode_bytes = static_cast<std::int64_t>(fs::file_size(staged.path() / kDecodeFile));
  report.prefill_bytes = static_cast<std::int64_t>(fs::file_size(staged.path() / kPrefillFile));
  report.passes = std::move(context.timings);
  // Checked again: something may have been put there in the meantime.
  require_replaceable(target, "quantize", "a package", objection_to_package);
  staged.commit();
  return report;
}

}  // namespace tandem
