// The flags of an examination, and its results as text and as JSON.
#include "cli/examine.h"

#include <span>
#include <utility>

#include "base/error.h"
#include "base/hub_cache.h"
#include "cli/doctor_text.h"
#include "cli/log.h"
#include "package/panel_cache.h"

namespace tandem::cli {
namespace {

// Half of what is lost, unless a limit is given.
constexpr double kShare = 0.5;
// Enough to rank modules, few enough that each takes seconds.
constexpr std::int64_t kWindows = 4;

std::optional<GateOptions> repairs(const ExamineFlags& flags) {
  if (flags.fix.empty()) return std::nullopt;
  GateOptions options{.max_size_increase_percent = flags.max_size_increase};
  if (flags.max_kl) {
    options.max_kl = *flags.max_kl;
  } else {
    options.max_share = kShare;
  }
  return options;
}

}  // namespace

void ExamineFlags::add_to(CLI::App& command) {
  command.add_flag(
      "--by-layer", by_layer,
      "also measure what each quantized module loses by itself, the others float: KL and SQNR. Of "
      "a package, compared with the checkpoint that it was made of (--against); of a checkpoint, "
      "what a recipe would lose");
  auto* repair =
      command.add_option("--fix", fix,
                         "the same, and write a recipe to this file that buys back the most for a "
                         "megabyte: finer groups, 8 bits, float");
  command
      .add_option("--calib", calibration,
                  "with --by-layer or --fix: the text that the package was calibrated on, or is to "
                  "be (default: the built-in text)")
      ->type_name("TEXT");
  command
      .add_option("--recipe", recipe,
                  "with --by-layer or --fix of a checkpoint: what it would be quantized by "
                  "(default: the usual recipe)")
      ->type_name("FILE");
  command
      .add_option("--layer-windows", windows,
                  "with --by-layer or --fix: windows of the texts, spread over them, that modules "
                  "are measured on (default: 4)")
      ->check(CLI::Range(1, 1 << 20));
  command
      .add_option("--max-kl", max_kl,
                  "the KL divergence, nats per token in each phase, that the recipe must keep to, "
                  "or else it is not written and the status is 3 (default: half of what is lost, "
                  "or as near to it as --max-size-increase allows)")
      ->check(CLI::NonNegativeNumber)
      ->needs(repair);
  command
      .add_option("--max-size-increase", max_size_increase,
                  "percent that the recipe may add to what Linears' weights take in both phases")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1000.0))
      ->needs(repair);
}

void ExamineFlags::require_given() const {
  if (given()) return;
  for (const auto& [is_set, flag] :
       {std::pair{!calibration.empty(), "--calib"}, std::pair{!recipe.empty(), "--recipe"},
        std::pair{windows.has_value(), "--layer-windows"}})
    if (is_set)
      fail(ErrorCode::kInvalidArgument, "[eval] {}: expected with --by-layer or --fix", flag);
}

Examiner::Examiner(const ExamineFlags& flags, const ModelFlags& model, const std::string& reference,
                   Observer& observer)
    : flags_(flags),
      checkpoint_(model.model),
      pool_(model.threads > 0 ? model.threads : default_threads()) {
  const fs::path path = find_model(model.model);
  ExaminationOptions options;
  if (Package::is_package(path)) {
    if (reference.empty() || Package::is_package(find_model(reference)))
      fail(ErrorCode::kInvalidArgument,
           "[eval] {}: is a package: expected --against with the checkpoint that it was made of{}",
           model.model, reference.empty() ? "" : fmt::format(", got the package {}", reference));
    if (!flags.recipe.empty())
      fail(ErrorCode::kInvalidArgument,
           "[eval] --recipe: expected with a checkpoint, got the package {}, which has its own",
           model.model);
    const LoadOptions load = model.load_options();
    package_ =
        Package::open(path, pool_, {load.cache.value_or(default_cache_folder()), load.verify});
    options.package = &*package_;
    checkpoint_ = reference;
  } else if (!flags.recipe.empty()) {
    options.recipe = read_recipe(input_path(flags.recipe));
  }
  options.checkpoint = checkpoint_;
  options.calibration = calibration_path("eval", flags.calibration);
  options.has_prefill = model.mode != "cpu";
  options.repairs = repairs(flags);
  examination_ = std::make_unique<Examination>(std::move(options), pool_, observer);
  if (flags.fix.empty()) return;
  refuse_standard_stream(flags.fix, "--fix", "a recipe is a file");
  refuse_overwriting("eval", model.model, flags.fix);
  refuse_overwriting("eval", checkpoint_, flags.fix);
  recipe_.emplace(flags.fix);
}

GateReport Examiner::run(const CalibrationWindows& all) {
  GateReport result = examination_->run(some_of(all, flags_.windows.value_or(kWindows)));
  if (recipe_ && is_written(result, flags_)) {
    const std::string text = to_json(examination_->recipe()).dump(2) + '\n';
    recipe_->write_at(0, std::as_bytes(std::span(text)));
    recipe_->commit();
  }
  return result;
}

std::string Examiner::next_command() const {
  return fmt::format(
      "next: tandem quantize {} -o OUTPUT --recipe {}{}", shell_word(checkpoint_),
      shell_word(flags_.fix),
      flags_.calibration.empty() ? "" : " --calib " + shell_word(flags_.calibration));
}

bool is_written(const GateReport& result, const ExamineFlags& flags) {
  return !flags.max_kl || result.passed();
}

void add_examination(const GateReport& result, const ExamineFlags& flags, OrderedJson& report) {
  OrderedJson whole = {{"windows", result.windows},
                       {"window_tokens", result.window_tokens},
                       {"bytes", result.bytes},
                       {"decode", to_json(result.decode_before)}};
  if (result.prefill_before) whole["prefill"] = to_json(*result.prefill_before);
  report["by_layer"] = std::move(whole);
  report["layers"] = to_json(result.slots);
  if (flags.fix.empty()) return;
  OrderedJson fix = {{"recipe", is_written(result, flags) ? OrderedJson(flags.fix) : OrderedJson()},
                     {"decode", to_json(result.decode)}};
  if (result.prefill) fix["prefill"] = to_json(*result.prefill);
  fix["added_bytes"] = result.added_bytes;
  fix["repairs"] = repairs_to_json(result.slots);
  report["fix"] = std::move(fix);
}

}  // namespace tandem::cli
