// tandem quantize: from a checkpoint to a package.
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <iostream>
#include <limits>
#include <optional>

#include "base/error.h"
#include "base/printable.h"
#include "cli/commands.h"
#include "cli/doctor_text.h"
#include "cli/html_report.h"
#include "cli/log.h"
#include "cli/quark_words.h"
#include "cli/terminal_observer.h"
#include "quantize/quantize_model.h"

namespace tandem::cli {
namespace {

struct QuantizeFlags {
  std::string checkpoint;
  std::string lora;
  std::string output;
  std::string calibration;
  std::string recipe;
  std::vector<std::string> algorithms;
  std::optional<std::string> smooth_alpha;
  std::optional<std::string> prefix;
  std::optional<double> shadow_threshold;
  std::optional<double> shadow_budget;
  std::string compat;
  std::string format = "package";
  std::optional<std::string> pack_method;
  std::optional<std::int64_t> shard_bytes;
  std::string gguf_type;
  std::int64_t group_size = 128;
  std::optional<std::string> lm_head;
  std::string prefill = "w8a8";
  std::vector<std::string> exclude;
  std::optional<std::string> input_scale;
  std::optional<std::int64_t> samples;
  std::optional<std::int64_t> window;
  std::optional<std::int64_t> chunk;
  std::optional<std::string> kv;
  bool resume = false;
  std::optional<double> max_kl;
  std::string max_kl_text;
  double max_size_increase = GateOptions{}.max_size_increase_percent;
  std::string report;
  std::string dump_after;
  int threads = 0;
  bool json = false;
  QuarkWords quark;
};

std::optional<double> read_alpha(const std::string& text) {
  double alpha = 0;
  const bool fits = CLI::detail::lexical_cast(text, alpha) && alpha >= 0 && alpha <= 1;
  return fits ? std::optional(alpha) : std::nullopt;
}

// Of every step smoothquant; without a number it is searched.
void set_alpha(Recipe& recipe, const std::string& text) {
  const std::optional<double> alpha = read_alpha(text);
  bool is_there = false;
  for (PassStep& step : recipe.passes) {
    if (step.name != "smoothquant") continue;
    is_there = true;
    step.settings["alpha"] = alpha ? Json(*alpha) : Json("search");
  }
  if (!is_there)
    fail(ErrorCode::kInvalidArgument,
         "[quantize] --smooth-alpha: expected with --algo smoothquant, or a recipe that has it");
}

struct NamedType {
  std::string_view name;
  GgmlType type;
  // The codes that are most like its own, which searches judge by.
  WeightType alike;
};
constexpr std::array kGgufTypes = {NamedType{"q8_0", GgmlType::kQ8_0, WeightType::kInt8},
                                   NamedType{"q4_0", GgmlType::kQ4_0, WeightType::kInt4},
                                   NamedType{"q4_1", GgmlType::kQ4_1, WeightType::kUint4},
                                   NamedType{"q6_k", GgmlType::kQ6_K, WeightType::kInt8},
                                   NamedType{"q4_k", GgmlType::kQ4_K, WeightType::kUint4}};

struct NamedScheme {
  std::string_view name;
  Scheme scheme;
};
// What the NPU multiplies: weights by static activations. First what recipes have anyway.
constexpr std::array kPrefills = {
    NamedScheme{"w8a8", {WeightType::kInt8, 0, DType::kF32, ActivationType::kStatic}},
    NamedScheme{"w4a8", {WeightType::kInt4, 32, DType::kF32, ActivationType::kStatic}},
    NamedScheme{"w8a16", {WeightType::kInt8, 0, DType::kF32, ActivationType::kStatic16}},
    NamedScheme{"w4a16", {WeightType::kInt4, 32, DType::kF32, ActivationType::kStatic16}}};

std::optional<NamedType> gguf_type(const QuantizeFlags& flags) {
  for (const NamedType& entry : kGgufTypes)
    if (entry.name == flags.gguf_type) return entry;
  return std::nullopt;
}

std::vector<std::string> gguf_type_names() {
  std::vector<std::string> names;
  for (const NamedType& entry : kGgufTypes) names.emplace_back(entry.name);
  return names;
}

// Every module in blocks of 32 codes like those of `type`, which are what searches round to.
Recipe recipe_like(const NamedType& type, bool with_head) {
  Recipe recipe = default_recipe(32, with_head ? 32 : 0);
  for (Rule& rule : recipe.rules)
    if (rule.decode && rule.decode->weights != WeightType::kFloat)
      rule.decode->weights = type.alike;
  return recipe;
}

std::optional<GgufExport> gguf_export(const QuantizeFlags& flags) {
  const auto type = gguf_type(flags);
  if (flags.format == "gguf") return GgufExport{type ? std::optional(type->type) : std::nullopt};
  if (type)
    fail(ErrorCode::kInvalidArgument,
         "[quantize] --gguf-type: expected with --export gguf, got --export {}", flags.format);
  return std::nullopt;
}

// "none", "search" or ids with commas between them, as the recipe's "prefix".
void set_prefix(const std::string& words, CalibrationSettings& calibration) {
  calibration.searches_prefix = words == "search";
  calibration.prefix.clear();
  if (words == "search" || words == "none") return;
  const Json ids = Json::parse("[" + words + "]", nullptr, false);
  const bool fits = ids.is_array() && !ids.empty() && std::ranges::all_of(ids, [](const Json& id) {
                      return id.is_number_unsigned() &&
                             id.get<std::uint64_t>() <= std::numeric_limits<std::int32_t>::max();
                    });
  if (!fits)
    fail(ErrorCode::kInvalidArgument,
         "[quantize] --prefix: expected none, search or token ids with commas between them, got "
         "'{}'",
         printable(words));
  calibration.prefix = ids.get<std::vector<std::int32_t>>();
}

// The recipe from a file, or the one described by the flags; flags override what a file says.
Recipe make_recipe(const QuantizeFlags& flags) {
  // Other tools leave the head as it is, and so do checkpoints made for them.
  // llama.cpp's mixtures of types are for the whole model.
  const auto type = gguf_type(flags);
  const std::string head =
      flags.lm_head.value_or(flags.format == "package" || type ? "32" : "float");
  Recipe recipe = !flags.recipe.empty() ? read_recipe(input_path(flags.recipe))
                  : type                ? recipe_like(*type, head != "float")
                         : default_recipe(flags.group_size, head == "float" ? 0 : std::stoll(head));
  if (const auto* prefill = std::ranges::find(kPrefills, flags.prefill, &NamedScheme::name);
      prefill != kPrefills.begin()) {
    if (flags.quark.given() || flags.format != "package")
      fail(ErrorCode::kInvalidArgument,
           "[quantize] --prefill: expected with a package, and without Quark's words");
    recipe.rules.front().prefill = prefill->scheme;
  }
  if (flags.quark.given()) recipe.rules = flags.quark.rules(flags.group_size, flags.checkpoint);
  const bool is_package = flags.format == "package" && !flags.quark.style(true);
  for (const std::string& algorithm : flags.algorithms) {
    PassStep step{algorithm};
    // Quark's name for the pass with a search.
    if (algorithm == "autosmoothquant") step = {"smoothquant", {{"alpha", "search"}}};
    if (algorithm == "awq" && !flags.compat.empty())
      step.settings = {{"compat", flags.compat}, {"search_tokens", 0}};
    // Other programs' checkpoints have no place for its operators.
    if (algorithm == "rotate" && !is_package) step.settings = {{"r4", false}};
    recipe.passes.push_back(std::move(step));
  }
  if (flags.smooth_alpha) {
    if (read_alpha(*flags.smooth_alpha) &&
        std::ranges::find(flags.algorithms, "autosmoothquant") != flags.algorithms.end())
      fail(ErrorCode::kInvalidArgument,
           "[quantize] --smooth-alpha: autosmoothquant searches it: expected search, got {}",
           *flags.smooth_alpha);
    set_alpha(recipe, *flags.smooth_alpha);
  }
  for (const std::string& pattern : flags.exclude) recipe.rules.push_back(exclude(pattern));
  CalibrationSettings& calibration = recipe.calibration;
  calibration.samples = flags.samples.value_or(calibration.samples);
  calibration.window = flags.window.value_or(calibration.window);
  recipe.chunk = flags.chunk.value_or(recipe.chunk);
  if (flags.kv) recipe.kv = flags.kv == "int8" ? DType::kI8 : DType::kF16;
  if (flags.prefix) set_prefix(*flags.prefix, calibration);
  if (flags.shadow_threshold) calibration.shadow = {.threshold = *flags.shadow_threshold};
  if (flags.shadow_budget) calibration.shadow = {.budget = *flags.shadow_budget};
  for (const InputBound bound :
       {InputBound::kLeastError, InputBound::kMax, InputBound::kPercentile})
    if (flags.input_scale == to_string(bound)) calibration.input_bound = bound;
  return recipe;
}

std::optional<PackedStyle> export_style(const QuantizeFlags& flags) {
  using Layout = PackedStyle::Layout;
  const bool reordered = flags.pack_method != "order";
  if (flags.quark.given()) return flags.quark.style(reordered);
  if (flags.pack_method && flags.format != "quark")
    fail(ErrorCode::kInvalidArgument,
         "[quantize] --pack-method: expected with --export quark, got --export {}", flags.format);
  if (flags.shard_bytes && (flags.format == "package" || flags.format == "gguf"))
    fail(ErrorCode::kInvalidArgument,
         "[quantize] --max-shard-size: expected with --export awq, gptq or quark, got --export "
         "{}",
         flags.format);
  for (const Layout layout : {Layout::kAwq, Layout::kGptq, Layout::kQuark})
    if (flags.format == to_string(layout)) return PackedStyle{layout, reordered};
  return std::nullopt;
}

std::string spell_cost(const Forecast& cost) {
  std::string text = fmt::format("{}, {} MB of memory, {} MB of disk", spell_duration(cost.seconds),
                                 megabytes(cost.memory_bytes), megabytes(cost.disk_bytes));
  if (cost.scratch_bytes > 0)
    text += fmt::format(" and {} MB until the output is whole", megabytes(cost.scratch_bytes));
  return text;
}

std::optional<GateOptions> gate(const QuantizeFlags& flags) {
  if (!flags.max_kl) return std::nullopt;
  return GateOptions{.max_kl = *flags.max_kl,
                     .text = calibration_path("quantize", flags.max_kl_text),
                     .max_size_increase_percent = flags.max_size_increase,
                     .ranks_always = !flags.report.empty()};
}

void add_gate(CLI::App& command, QuantizeFlags& flags) {
  auto* limit =
      command
          .add_option("--max-kl", flags.max_kl,
                      "the KL divergence from the checkpoint, nats per token in each phase, that "
                      "must not be exceeded: Linears that lose most get more precision, or else "
                      "nothing is written and the status is 3")
          ->check(CLI::NonNegativeNumber);
  command
      .add_option("--max-kl-text", flags.max_kl_text,
                  "text to measure that on (default: windows of the calibration text that are "
                  "held back from calibration)")
      ->needs(limit);
  command
      .add_option("--max-size-increase", flags.max_size_increase,
                  "percent that repairs may add to what Linears' weights take in both phases")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1000.0))
      ->needs(limit);
  command
      .add_option("--report", flags.report,
                  "write what every module loses, and what was repaired, to this HTML file")
      ->type_name("FILE")
      ->needs(limit);
}

// What is in the output's folder is gone when that is replaced.
void require_outside(const std::string& report, const std::string& output) {
  std::error_code ignored;
  if (fs::equivalent(fs::absolute(report).parent_path(), output, ignored))
    fail(ErrorCode::kInvalidArgument,
         "[quantize] {}: is in the output's folder, which is replaced whole: choose another",
         report);
}

HtmlReport html_report(const QuantizeFlags& flags, const GateReport& report) {
  return {.title = "Quality of " + flags.output,
          .facts = {{"checkpoint", flags.checkpoint}, {"quantized to", flags.output}},
          .doctor = &report};
}

[[noreturn]] void fail_gate(const QuantizeFlags& flags, const GateReport& report) {
  if (flags.json) {
    print_json({{"output", nullptr}, {"gate", to_json(report)}});
  } else {
    std::cout << table_of(report.slots, 20) << repairs_of(report.slots);
  }
  throw NotGoodEnough(failure_of(report, "quantize"));
}

std::string spell_shadows(const ShadowCount& shadows) {
  if (shadows.modules == 0) return "shadow: none, since no channels are worth it\n";
  return fmt::format("shadow: {} hot channels of {} modules, {:.1f} KB\n", shadows.channels,
                     shadows.modules, static_cast<double>(shadows.bytes) / 1000);
}

void quantize(const QuantizeFlags& flags) {
  const auto start = std::chrono::steady_clock::now();
  refuse_standard_stream(flags.checkpoint, "checkpoint", "a model is mapped into memory");
  refuse_standard_stream(flags.output, "--output", "a package is a folder");
  refuse_swapped("quantize", flags.checkpoint, flags.output);
  const std::string& text = flags.calibration.empty() ? flags.quark.dataset() : flags.calibration;
  Forecast expected;
  const QuantizeOptions options{.checkpoint = flags.checkpoint,
                                .lora = flags.lora,
                                .calibration = calibration_path("quantize", text),
                                .target = flags.output,
                                .resume = flags.resume,
                                .export_style = export_style(flags),
                                .shard_bytes = flags.shard_bytes.value_or(kShardBytes),
                                .gguf = gguf_export(flags),
                                .recipe = make_recipe(flags),
                                .gate = gate(flags),
                                .dump_after = flags.dump_after,
                                .dump = [](const Graph& graph) { std::cerr << dump(graph); },
                                .forecast =
                                    [&](const Forecast& known) {
                                      expected = known;
                                      spdlog::info("forecast: {}", spell_cost(expected));
                                    }};
  ThreadPool pool(flags.threads > 0 ? flags.threads : default_threads());
  catch_interrupt();
  TerminalObserver observer;
  std::optional<ReportFile> page;
  if (!flags.report.empty()) {
    require_outside(flags.report, flags.output);
    page.emplace("quantize", flags.report, std::vector{flags.checkpoint});
  }
  const QuantizeReport report = quantize_model(options, pool, observer);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (page && report.gate) page->write(html_report(flags, *report.gate));
  if (report.gate && !report.gate->passed()) fail_gate(flags, *report.gate);
  if (flags.json) {
    OrderedJson passes = OrderedJson::array();
    for (const auto& [pass, time] : report.passes)
      passes.push_back({{"pass", pass}, {"seconds", time}});
    const auto cost = [](const Forecast& of) {
      return OrderedJson{{"seconds", of.seconds},
                         {"memory_bytes", of.memory_bytes},
                         {"disk_bytes", of.disk_bytes},
                         {"scratch_bytes", of.scratch_bytes}};
    };
    OrderedJson made = {{"output", flags.output},
                        {"linears", report.linears},
                        {"kept", report.kept},
                        {"calibration_tokens", report.calibration_tokens},
                        {"prefix", report.prefix},
                        {"shadow",
                         {{"modules", report.shadows.modules},
                          {"channels", report.shadows.channels},
                          {"bytes", report.shadows.bytes}}},
                        {"decode_bytes", report.decode_bytes},
                        {"prefill_bytes", report.prefill_bytes},
                        {"passes", std::move(passes)},
                        {"forecast", cost(expected)},
                        {"memory_bytes", peak_memory_bytes()},
                        {"seconds", seconds}};
    if (report.gate) made["gate"] = to_json(*report.gate);
    print_json(made);
    return;
  }
  const std::string sizes =
      options.exports() ? fmt::format("{} MB", megabytes(report.decode_bytes))
                        : fmt::format("decode {} MB, prefill {} MB", megabytes(report.decode_bytes),
                                      megabytes(report.prefill_bytes));
  std::cout << fmt::format(
      "{}: {} weights quantized{} after {} calibration tokens in {:.1f} s; {}\n", flags.output,
      report.linears - report.kept, report.kept > 0 ? fmt::format(", {} kept", report.kept) : "",
      report.calibration_tokens, seconds, sizes);
  if (flags.prefix == "search" && report.prefix.empty())
    std::cout << "prefix: none, since no token has outliers\n";
  if (!report.prefix.empty())
    std::cout << fmt::format("prefix: {}\n", fmt::join(report.prefix, ", "));
  if (options.recipe.calibration.shadow.any()) std::cout << spell_shadows(report.shadows);
  if (report.gate) std::cout << text_of(*report.gate);
  const Written made = written(flags.output);
  spdlog::info("{} -> {}: {} file{}, {} MB", flags.checkpoint, flags.output, made.files,
               made.files == 1 ? "" : "s", megabytes(made.bytes));
  spdlog::info("took {}; the forecast was {}",
               spell_cost({seconds, peak_memory_bytes(), made.bytes}), spell_cost(expected));
  suggest_run(flags.output);
}

}  // namespace

void add_quantize(CLI::App& app) {
  auto* command = app.add_subcommand("quantize",
                                     "make a package: int4 weights for decode, static int8 for "
                                     "prefill, from a float checkpoint, or "
                                     "one that is quantized already, whose codes are kept");
  auto flags = std::make_shared<QuantizeFlags>();
  command->add_option("checkpoint", flags->checkpoint, "folder with config.json and safetensors")
      ->required();
  command->add_option("--lora", flags->lora,
                      "LoRA adapter of PEFT to merge into the weights: folder with "
                      "adapter_config.json and adapter_model.safetensors");
  command
      ->add_option("-o,--output", flags->output,
                   "folder of the package; replaced whole if it is a package or empty; with "
                   "--export gguf a file NAME.gguf")
      ->required();
  command->add_option("--calib", flags->calibration,
                      "text of the kind that the model will read, for activation scales and "
                      "searches; of NAME.jsonl or NAME.jsonl.zst each line's \"text\" or chat "
                      "\"messages\" (default: "
                      "a built-in text)");
  auto* recipe = command->add_option(
      "--recipe", flags->recipe,
      "JSON file: passes, what each module becomes, calibration (docs/recipes.md)");
  auto* algorithm =
      command
          ->add_option("--algo,--quant-algo", flags->algorithms,
                       "what is done before weights are rounded, in this order: rotate mixes "
                       "channels so that none has outliers, smoothquant moves the range "
                       "of activations into weights, autosmoothquant as much of it as "
                       "rounds best, awq searches scales and clipping, "
                       "seqmse clipping alone, mse_clip without a text, gptq chooses codes that "
                       "make up for each other and comes last (default: nothing)")
          ->delimiter(',')
          ->allow_extra_args(false)
          ->check(CLI::IsMember(
              {"rotate", "smoothquant", "autosmoothquant", "awq", "seqmse", "mse_clip", "gptq"}));
  command
      ->add_option("--smooth-alpha", flags->smooth_alpha,
                   "how much of the range smoothquant moves: from 0, which equalizes the weights' "
                   "columns, to 1, the activations, or search for what rounds best of each group "
                   "of Linears (default: 0.5; search with autosmoothquant)")
      ->type_name("FLOAT|search")
      ->check([](const std::string& text) {
        if (text == "search" || read_alpha(text)) return std::string();
        return fmt::format("expected a number from 0 to 1, or search, got '{}'", printable(text));
      });
  command
      ->add_option("--compat", flags->compat,
                   "quark: search on all of the text and in the order of AMD Quark, whose results "
                   "it reproduces")
      ->check(CLI::IsMember({"quark"}))
      ->needs(algorithm);
  command
      ->add_option("--export", flags->format,
                   "what to write: a package, or the int4 weights alone as a checkpoint in the "
                   "words of AutoAWQ, AutoGPTQ or AMD Quark, or as a GGUF for llama.cpp")
      ->capture_default_str()
      ->check(CLI::IsMember({"package", "awq", "gptq", "quark", "gguf"}));
  auto* gguf = command
                   ->add_option("--gguf-type", flags->gguf_type,
                                "with --export gguf: weights are rounded to this type of "
                                "llama.cpp after the recipe's passes (default: the codes that the "
                                "recipe makes, moved into blocks)")
                   ->check(CLI::IsMember(gguf_type_names()));
  command
      ->add_option("--pack-method", flags->pack_method,
                   "with --export quark: the order of the codes in a word (default: reorder)")
      ->check(CLI::IsMember({"reorder", "order"}));
  command
      ->add_option(
          "--max-shard-size", flags->shard_bytes,
          "with --export: bytes of a safetensors file, at most, such as 500MB (default: 5GB)")
      ->transform(CLI::AsSizeValue(true));
  command
      ->add_option("--group-size", flags->group_size,
                   "weights that share an int4 scale: 32, 64 or 128")
      ->capture_default_str()
      ->check(CLI::IsMember({32, 64, 128}))
      ->excludes(recipe)
      ->excludes(gguf);
  command
      ->add_option("--lm-head", flags->lm_head,
                   "group size of the head's int4, or float (default: 32, float for an export)")
      ->check(CLI::IsMember({"32", "64", "128", "float"}))
      ->excludes(recipe);
  command
      ->add_option("--prefill", flags->prefill,
                   "what the NPU multiplies: int8 weights, w8, or int4 in blocks of 32, w4, half "
                   "the size, by activations of 8 bits or, twice the work, 16, a16")
      ->capture_default_str()
      ->check(CLI::IsMember({"w8a8", "w4a8", "w8a16", "w4a16"}))
      ->excludes(recipe);
  command
      ->add_option("--exclude", flags->exclude,
                   "module that stays as it is, float or with the codes it has, such as "
                   "\"*.down_proj\" or \"re:layers\\.0\\.\"; may be repeated")
      ->allow_extra_args(false);
  command
      ->add_option("--input-scale", flags->input_scale,
                   "static activation scale: least_error (default), max or percentile (99.9) of "
                   "|x|")
      ->check(CLI::IsMember({"least_error", "max", "percentile"}));
  command->add_option("--prefix", flags->prefix,
                      "tokens that stand before every sequence, so that others have no outliers: "
                      "none (default), search, or their ids, such as 1,13");
  auto* threshold =
      command
          ->add_option("--shadow-threshold", flags->shadow_threshold,
                       "where the largest |x| of a static input is above so many times its 99.9th "
                       "percentile, its scale follows the percentile, and what channels have "
                       "beyond that is computed in float")
          ->check(CLI::Range(ShadowSettings::kLeastThreshold, ShadowSettings::kMostThreshold))
          ->type_name("RATIO");
  command
      ->add_option("--shadow-budget", flags->shadow_budget,
                   "compute in float what those channels have beyond a static scale that are "
                   "measured to lose most, adding at most so many percent to what the int8 "
                   "weights take, such as 3")
      ->check(CLI::Range(ShadowSettings::kLeastBudget, ShadowSettings::kMostBudget))
      ->type_name("PERCENT")
      ->excludes(threshold);
  command->add_option("--samples", flags->samples, "calibration windows, at most (default: 128)")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--seq-len", flags->window, "tokens in a calibration window (default: 512)")
      ->check(CLI::Range(2, 1 << 20));
  command
      ->add_option("--chunk", flags->chunk,
                   "prompt tokens that the NPU reads at once (default: 128)")
      ->check(CLI::Range(1, 4096));
  command
      ->add_option("--kv", flags->kv,
                   "the KV cache: float16 (default), or int8, half the size, with a scale for each "
                   "channel from calibration")
      ->check(CLI::IsMember({"float16", "int8"}));
  command->add_flag("--resume", flags->resume,
                    "go on from the blocks that an interrupted run of the same command finished "
                    "and left in OUTPUT.resume");
  add_gate(*command, *flags);
  command->add_option("--dump-after", flags->dump_after,
                      "print the graph after this pass on standard error: one of the recipe's "
                      "passes, quantize_decode or quantize_prefill");
  flags->quark.add_to(*command);
  command->add_option("-t,--threads", flags->threads, "threads (default: one per core)")
      ->check(CLI::Range(1, 64));
  command->add_flag("--json", flags->json, "one JSON object on standard output");
  command->callback([flags] { quantize(*flags); });
}

}  // namespace tandem::cli
