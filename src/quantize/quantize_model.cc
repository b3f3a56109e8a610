// The driver of tandem quantize: passes, calibration, quantization, writing.
#include "quantize/quantize_model.h"

#include <algorithm>
#include <array>
#include <deque>
#include <optional>

#include "base/error.h"
#include "base/printable.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf/gguf.h"
#include "graph/finite.h"
#include "models/model.h"
#include "package/output_folder.h"
#include "package/package.h"
#include "package/write_package.h"
#include "quantize/calibration.h"
#include "quantize/calibration_text.h"
#include "quantize/export_checkpoint.h"
#include "quantize/journal.h"
#include "quantize/kept_codes.h"
#include "quantize/passes.h"
#include "quantize/prefix_search.h"
#include "quantize/prepare_graph.h"
#include "quantize/quantize_linears.h"

namespace tandem {
namespace {

constexpr const char* kDecodePass = "quantize_decode";
constexpr const char* kPrefillPass = "quantize_prefill";

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

void require_room_for_file(const fs::path& target) {
  std::error_code error;
  if (target.extension() != ".gguf")
    fail(ErrorCode::kInvalidArgument,
         "[quantize] output: expected a name that ends in .gguf, got \"{}\"", target.string());
  if (!fs::exists(fs::symlink_status(target, error)) || is_gguf(target)) return;
  fail(ErrorCode::kInvalidArgument,
       "[quantize] {}: would be replaced, but is no GGUF: remove it or choose another name",
       target.string());
}

void require_room(const QuantizeOptions& options) {
  if (options.gguf) {
    require_room_for_file(options.target);
  } else if (options.export_style) {
    require_replaceable(options.target, "quantize", "a checkpoint",
                        [](const fs::path&) { return "it is not empty"; });
  } else {
    require_replaceable(options.target, "quantize", "a package", objection_to_package);
  }
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

// What the work depends on, by the names by which a difference is told.
OrderedJson describe_job(const QuantizeOptions& options, const Checkpoint& checkpoint,
                         const CalibrationText& text) {
  OrderedJson recipe = to_json(options.recipe);
  recipe.erase("calibration");
  OrderedJson files = OrderedJson::object();
  for (const fs::path& path : checkpoint.weight_files())
    files[path.filename().string()] = file_stamp(path);
  OrderedJson adapter = OrderedJson::object();
  if (fs::is_directory(options.lora)) {
    for (const auto& entry : fs::directory_iterator(options.lora))
      if (entry.is_regular_file())
        adapter[entry.path().filename().string()] = file_stamp(entry.path());
  } else if (!options.lora.empty()) {
    adapter[options.lora.filename().string()] = file_stamp(options.lora);
  }
  return {{"checkpoint", std::move(files)},
          {"adapter", std::move(adapter)},
          {"recipe", std::move(recipe)},
          {"calibration text", text.source},
          {"calibration settings", to_json(options.recipe)["calibration"]},
          {"export", options.exports()}};
}

void warn_of_little_room(const fs::path& target, const Forecast& expected, Observer& observer) {
  std::error_code error;
  const fs::path folder = fs::absolute(target, error).parent_path();
  const fs::space_info space = fs::space(folder, error);
  const std::int64_t needed = expected.disk_bytes + expected.scratch_bytes;
  if (error || space.available >= static_cast<std::uintmax_t>(needed)) return;
  observer.warn(fmt::format("[quantize] {}: {} MB are free, of about {} MB that will be needed",
                            folder.string(), space.available / 1'000'000, needed / 1'000'000));
}

fs::path journal_folder(const fs::path& target) {
  const fs::path name = target.has_filename() ? target : target.parent_path();
  return name.string() + ".resume";
}

// True for a module whose stored form is neither plain floats nor codes that are kept.
bool is_rounded_again(const Checkpoint& checkpoint, const Recipe& recipe, const Node& linear) {
  const std::string name = linear.name + ".weight";
  if (is_quantized(linear) || !checkpoint.has(name)) return false;
  if (plan_of(recipe, linear).decode.weights == WeightType::kFloat) return false;
  const auto stored = checkpoint.tensors().find(name);
  constexpr std::array kPlain = {"F32", "F16", "BF16", "F64"};
  return stored == checkpoint.tensors().end() ||
         std::ranges::find(kPlain, stored->second.type) == kPlain.end();
}

void warn_of_second_rounding(const Checkpoint& checkpoint, const Recipe& recipe, const Graph& graph,
                             Observer& observer) {
  std::vector<std::string> modules;
  for (const Node& node : graph.nodes())
    if (node.op == Op::kLinear && is_rounded_again(checkpoint, recipe, node))
      modules.push_back(node.name);
  if (modules.empty()) return;
  observer.warn(
      fmt::format("[quantize] {}: {} of its modules are quantized in a form that no package has, "
                  "and are rounded a second time (--exclude leaves them as they are): {}",
                  checkpoint.path().string(), modules.size(), first_of(modules)));
}

std::int64_t windows_to_hold_out(const QuantizeOptions& options) {
  return options.gate && options.gate->text.empty() ? kGateWindows : 0;
}

// What a gate measures on, and that in words.
struct GateText {
  CalibrationWindows windows;
  std::string source;
};

GateText gate_text(const GateOptions& gate, const QuantizeOptions& options,
                   const Checkpoint& checkpoint, const ModelInfo& info,
                   const std::optional<CalibrationText>& text) {
  const auto name = [](const fs::path& file) {
    return file.empty() ? std::string("the built-in text") : file.filename().string();
  };
  if (gate.text.empty() && text)
    return {text->held_out, name(options.calibration) + ", held back from calibration"};
  // Nothing is calibrated, or a text was given.
  const fs::path& file = gate.text.empty() ? options.calibration : gate.text;
  const std::int64_t window = std::min(options.recipe.calibration.window, info.longest_sequence());
  return {cut_windows(tokenize_text(file, checkpoint), window, kGateWindows), name(file)};
}

// Of the files in a folder whose names end so.
std::int64_t size_of_files(const fs::path& folder, std::string_view ending) {
  std::int64_t size = 0;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().filename().string().ends_with(ending))
      size += static_cast<std::int64_t>(entry.file_size());
  return size;
}

// Says all that is wrong with a job before its long-running work, and warns of the rest.
void check_model(const QuantizeOptions& options, const Checkpoint& checkpoint,
                 const CheckpointWeights& weights, const Graph& loaded, ThreadPool& pool,
                 Observer& observer) {
  if (const auto bad = find_non_finite(loaded, pool, observer))
    fail(ErrorCode::kFormat, "[quantize] {}: {}", checkpoint.file_of(bad->tensor).string(),
         to_string(*bad));
  check_recipe(options.recipe, loaded);
  if (options.export_style) check_export(checkpoint, loaded, options.recipe, *options.export_style);
  if (options.gguf) check_gguf_export(checkpoint, loaded, options.recipe, *options.gguf);
  if (options.exports() && options.recipe.calibration.has_prefix())
    fail(ErrorCode::kInvalidArgument,
         "[export] a prefix has no place in a checkpoint: expected \"none\", or a package");
  if (options.exports() && options.recipe.calibration.shadow.any())
    fail(ErrorCode::kInvalidArgument,
         "[export] shadows have no place in a checkpoint: expected \"none\", or a package");
  if (options.exports() && options.recipe.kv == DType::kI8)
    fail(ErrorCode::kInvalidArgument,
         "[export] the scales of an int8 KV cache have no place in a checkpoint: expected "
         "\"float16\", or a package");
  warn_of_left_out(checkpoint, weights, observer);
  warn_of_second_rounding(checkpoint, options.recipe, loaded, observer);
}

void check_options(const QuantizeOptions& options) {
  check_chunk(options.recipe);
  check_dump(options);
  if (options.gate && options.gguf && options.gguf->type)
    fail(ErrorCode::kInvalidArgument,
         "[quantize] a limit to the loss is measured on the recipe's codes, which are not written "
         "with a type of GGUF");
  std::error_code ignored;
  if (fs::equivalent(options.target, options.checkpoint, ignored))
    fail(ErrorCode::kInvalidArgument, "[quantize] {}: is the checkpoint: choose another folder",
         options.target.string());
  require_room(options);
}

}  // namespace

QuantizeReport quantize_model(const QuantizeOptions& options, ThreadPool& pool,
                              Observer& observer) {
  const fs::path& target = options.target;
  check_options(options);
  Checkpoint checkpoint = Checkpoint::open(options.checkpoint, {}, observer);
  if (!options.lora.empty()) checkpoint.merge_lora(options.lora);
  const JsonObject config = checkpoint.config_object();
  const Json& generation = checkpoint.generation_config();
  const ModelInfo info = read_model_info(config, &generation, observer);

  PassContext context{pool, observer, options.dump_after, options.dump};
  const CheckpointWeights weights(checkpoint);
  const Graph loaded = build_graph(config, weights);
  check_model(options, checkpoint, weights, loaded, pool, observer);
  QuantizeReport report;
  report.kept = report_kept(loaded, observer);

  // Before the long-running work, so that a folder that can't be written to is reported now.
  // A file is written in a folder of its own, from which it is moved to its place.
  StagedFolder staged(options.gguf ? fs::path(target.string() + ".parts") : target);
  const fs::path file = staged.path() / target.filename();
  if (options.gguf)
    check_gguf_outline(file, target.string(), checkpoint, loaded, options.recipe, observer);
  const bool is_static = !options.exports() && has_static_inputs(options.recipe, loaded);
  std::optional<CalibrationText> text;
  if (is_static || options.recipe.kv == DType::kI8 || options.recipe.calibration.searches_prefix ||
      std::ranges::any_of(options.recipe.passes, needs_text))
    text = read_calibration_text(options.calibration, checkpoint, info, options.recipe.calibration,
                                 observer, windows_to_hold_out(options));
  std::optional<GateText> gate_on;
  if (options.gate) gate_on = gate_text(*options.gate, options, checkpoint, info, text);
  report.prefix =
      prefix_of(options.recipe, loaded, info, text ? &text->windows : nullptr, pool, observer);
  if (text) text->windows.prefix = report.prefix;
  if (gate_on) gate_on->windows.prefix = report.prefix;
  const CalibrationWindows* const windows = text ? &text->windows : nullptr;
  FileSink sink(staged.path());
  std::optional<Journal> journal;
  if (text)
    journal.emplace(Journal::Options{.folder = journal_folder(target),
                                     .job = describe_job(options, checkpoint, *text),
                                     .resume = options.resume,
                                     .interval = options.journal_interval},
                    observer);
  const Forecast expected = forecast(loaded, options.recipe, text ? windows->tokens() : 0,
                                     options.exports() ? 1 : 2, pool);
  if (options.forecast) options.forecast(expected);
  warn_of_little_room(target, expected, observer);
  // Of each pass that learns from the text, and of calibration.
  std::deque<BlockJournal> parts;
  const auto part_of = [&](const std::string& name) {
    return journal ? &parts.emplace_back(*journal, fmt::format("{}-{}", parts.size(), name))
                   : nullptr;
  };
  const auto [graph, statistics] =
      prepare_graph(loaded, options.recipe, {windows, is_static, sink, part_of}, context);

  Recipe recipe = options.recipe;
  LinearQuantizer quantizer(recipe, statistics, sink);
  const Pass decode_pass{kDecodePass,
                         [&](const Graph& g, PassContext& c) { return quantizer.decode(g, c); }};
  const Pass prefill_pass{kPrefillPass,
                          [&](const Graph& g, PassContext& c) { return quantizer.prefill(g, c); }};
  if (options.gate && gate_on) {
    report.gate =
        pass_gate(*options.gate, {loaded, graph, statistics, !options.exports(), options.exports()},
                  gate_on->windows, recipe, quantizer, pool, observer);
    report.gate->text = gate_on->source;
    if (!report.gate->passed()) return report;
  }
  // With a type of ggml, floats are rounded as they are written.
  const bool is_rounded_there = options.gguf && options.gguf->type;
  const Graph decode = is_rounded_there ? graph : run_passes(graph, {&decode_pass, 1}, context);
  report.linears = std::ranges::count(graph.nodes(), Op::kLinear, &Node::op);
  report.calibration_tokens = text ? text->windows.tokens() : 0;
  if (options.gguf) {
    export_gguf(file, checkpoint, decode, recipe, *options.gguf, info.eos, observer);
    report.decode_bytes = static_cast<std::int64_t>(fs::file_size(file));
  } else if (options.export_style) {
    export_checkpoint(staged.path(), checkpoint, loaded, decode, *options.export_style,
                      options.shard_bytes, observer);
    report.decode_bytes = size_of_files(staged.path(), ".safetensors");
  } else {
    const Graph prefill = run_passes(graph, {&prefill_pass, 1}, context);
    report.shadows = count_shadows(prefill);
    if (report.shadows.modules == 0) report.shadows = count_shadows(decode);
    OrderedJson written = to_json(recipe);
    if (text) written["calibration"].update(text->source);
    write_texts(checkpoint, staged.path(), observer);
    write_package(staged.path(),
                  {info, generation, prefill, decode, std::move(written), report.prefix}, pool,
                  observer);
    report.decode_bytes = size_of_files(staged.path(), kDecodeFile);
    report.prefill_bytes = size_of_files(staged.path(), kPrefillFile);
  }
  report.passes = std::move(context.timings);
  // Checked again: something may have been put there in the meantime.
  require_room(options);
  if (options.gguf) {
    fs::rename(file, target);
  } else {
    staged.commit();
  }
  if (journal) journal->finish();
  return report;
}

}  // namespace tandem
