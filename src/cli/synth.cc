// tandem synth: a checkpoint with random weights in a real model's shape.
#include "models/synth.h"

#include <iostream>

#include "base/error.h"
#include "checkpoint/safetensors.h"
#include "cli/commands.h"
#include "cli/log.h"
#include "cli/terminal_observer.h"
#include "package/output_folder.h"

namespace tandem::cli {
namespace {

struct SynthFlags {
  std::string shape;
  std::string output;
  std::uint64_t seed = 0;
  int threads = 0;
};

// Accepts only the files that synth writes, and weights with its mark.
std::string objection_to_synth(const fs::path& folder) {
  const std::string foreign =
      foreign_entry(folder, {"config.json", "generation_config.json", "tokenizer.json",
                             "tokenizer_config.json", "model.safetensors"});
  if (!foreign.empty()) return foreign;
  try {
    const auto metadata = SafetensorsFile::open(folder / "model.safetensors").metadata;
    return metadata.contains(kSynthMark) ? "" : "its weights were not made by synth";
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace

void add_synth(CLI::App& app) {
  auto* command = app.add_subcommand(
      "synth", "write a checkpoint with random weights in a real model's shape, for benchmarks");
  auto flags = std::make_shared<SynthFlags>();
  std::vector<std::string> names;
  for (const SynthShape& shape : synth_shapes()) names.emplace_back(shape.name);
  command->add_option("--shape", flags->shape, "which model's shape")
      ->required()
      ->check(CLI::IsMember(names));
  command
      ->add_option("-o,--output", flags->output,
                   "folder to write; replaced whole if synth made it or it is empty")
      ->required();
  command->add_option("--seed", flags->seed, "same seed, same weights")
      ->capture_default_str()
      ->check(integer_in_range<std::uint64_t>);
  command->add_option("-t,--threads", flags->threads, "threads (default: one per core)")
      ->check(CLI::Range(1, 64));
  command->callback([flags] {
    refuse_standard_stream(flags->output, "--output", "a checkpoint is a folder");
    require_replaceable(flags->output, "synth", "a checkpoint made by tandem synth",
                        objection_to_synth);
    ThreadPool pool(flags->threads > 0 ? flags->threads : default_threads());
    catch_interrupt();
    TerminalObserver observer;
    const std::int64_t parameters =
        write_synth_checkpoint(flags->shape, flags->output, flags->seed, pool, observer);
    std::cout << fmt::format("{}: {:.2f} G parameters\n", flags->output,
                             static_cast<double>(parameters) * 1e-9);
    suggest_run(flags->output);
  });
}

}  // namespace tandem::cli
