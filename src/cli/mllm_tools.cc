// tandem profile, export-qnn and export-rotated: mllm's scripts for Qualcomm's NPU, with their
// configuration.
#include "quantize/mllm_tools.h"

#include <iostream>
#include <optional>

#include "base/staged_file.h"
#include "cli/commands.h"
#include "cli/distribution_plot.h"
#include "cli/log.h"
#include "cli/terminal_observer.h"

namespace tandem::cli {
namespace {

struct ProfileFlags {
  std::string config;
  std::string compat;
  std::string report;
  std::optional<std::int64_t> longest;
  int threads = 0;
};

void add_config(CLI::App& command, std::string& config) {
  command
      .add_option("--config-file", config,
                  "JSON file with profile_config and export_config (docs/from-the-seeds.md)")
      ->required();
}

MllmConfig read_config(const std::string& file) { return read_mllm_config(input_path(file)); }

void profile(const ProfileFlags& flags) {
  catch_interrupt();
  const MllmConfig config = read_config(flags.config);
  ThreadPool pool(flags.threads > 0 ? flags.threads : default_threads());
  TerminalObserver observer;
  std::optional<StagedFile> page;
  if (!flags.report.empty()) {
    refuse_standard_stream(flags.report, "--report", "a file is written");
    refuse_overwriting("profile", config.profile.model.model_name.string(), flags.report);
    page.emplace(flags.report);
  }
  const ProfileReport report =
      profile_model(config.profile, flags.compat == "mllm", flags.longest, pool, observer);
  if (page) {
    const std::string plot = draw_distributions(report.profile, config.export_model.threshold());
    page->write_at(0, std::as_bytes(std::span(plot)));
    page->commit();
  }
  std::cout << fmt::format("{}: inputs and outputs of {} Linears on {} samples, {} tokens\n",
                           config.profile.output_path.string(), report.profile.size(),
                           report.samples, report.tokens);
  if (config.profile.model.random_rotate && !config.profile.model.save_rotation.empty())
    std::cout << fmt::format("{}: the matrices\n", config.profile.model.save_rotation.string());
}

void export_int8(const std::string& file) {
  catch_interrupt();
  const MllmConfig config = read_config(file);
  TerminalObserver observer;
  const MllmInt8Report report = export_int8_model(config.export_model, observer);
  std::cout << fmt::format("{}: {} Linears in int8, {} MB\n",
                           config.export_model.output_model.string(), report.linears,
                           megabytes(written(config.export_model.output_model).bytes));
  for (const std::string& side : report.unclipped)
    std::cout << fmt::format("{}: has outliers, its scale follows 99.9 % of the values\n", side);
}

void export_rotated(const std::string& file) {
  catch_interrupt();
  const MllmConfig config = read_config(file);
  TerminalObserver observer;
  if (fs::exists(config.export_model.output_model))
    observer.warn(fmt::format(
        "[export] {}: replaces the model that was there (a new output_model keeps both)",
        config.export_model.output_model.string()));
  export_rotated_model(config.export_model, observer);
  std::cout << fmt::format("{}: {} MB\n", config.export_model.output_model.string(),
                           megabytes(written(config.export_model.output_model).bytes));
}

}  // namespace

void add_profile(CLI::App& app) {
  auto* command = app.add_subcommand("profile",
                                     "what activations look like on a text, and rotations, for "
                                     "mllm's export (get_distribution.py)");
  auto flags = std::make_shared<ProfileFlags>();
  add_config(*command, flags->config);
  command
      ->add_option("--compat", flags->compat,
                   "mllm: signed values, of which large negative ones count for nothing, as its "
                   "script has it (default: magnitudes)")
      ->check(CLI::IsMember({"mllm"}));
  command
      ->add_option("--report", flags->report,
                   "draw maxima, 99.9 % and chosen scales of every Linear into this SVG file")
      ->type_name("FILE");
  command
      ->add_option("--seq-len", flags->longest,
                   "tokens of a sample, at most (default: those of a document's first 6000 "
                   "characters; 512 of a plain text, which is cut)")
      ->check(CLI::Range(2, 1 << 20));
  command->add_option("-t,--threads", flags->threads, "threads (default: one per core)")
      ->check(CLI::Range(1, 64));
  command->callback([flags] { profile(*flags); });
}

void add_export_qnn(CLI::App& app) {
  auto* command = app.add_subcommand(
      "export-qnn", "mllm's int8 model for the NPU, from a profile (export_qnn_model.py)");
  auto config = std::make_shared<std::string>();
  add_config(*command, *config);
  command->callback([config] { export_int8(*config); });
}

void add_export_rotated(CLI::App& app) {
  auto* command = app.add_subcommand(
      "export-rotated", "the rotated model in float32 for the CPU (export_rotate_model.py)");
  auto config = std::make_shared<std::string>();
  add_config(*command, *config);
  command->callback([config] { export_rotated(*config); });
}

}  // namespace tandem::cli
