// tandem quantize: from a float checkpoint to a package.
#include <chrono>
#include <iostream>

#include "base/error.h"
#include "cli/commands.h"
#include "package/build_package.h"

namespace tandem::cli {
namespace {

struct QuantizeFlags {
  std::string checkpoint;
  std::string output;
  std::string calibration;
  Recipe recipe;
  std::string lm_head = "32";
  int threads = 0;
  bool json = false;
};

void quantize(QuantizeFlags flags) {
  const auto start = std::chrono::steady_clock::now();
  flags.recipe.lm_head_group_size = flags.lm_head == "float" ? 0 : std::stoll(flags.lm_head);
  ThreadPool pool(flags.threads > 0 ? flags.threads : default_threads());
  catch_interrupt();
  const BuildReport report = build_package(flags.checkpoint, flags.calibration, flags.output,
                                           flags.recipe, pool, interrupted);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (flags.json) {
    print_json({{"output", flags.output},
                {"linears", report.linears},
                {"calibration_tokens", report.calibration_tokens},
                {"decode_bytes", report.decode_bytes},
                {"prefill_bytes", report.prefill_bytes},
                {"seconds", seconds}});
    return;
  }
  std::cout << fmt::format(
      "{}: {} weights quantized after {} calibration tokens in {:.1f} s; decode {} MB, prefill {} "
      "MB\n",
      flags.output, report.linears, report.calibration_tokens, seconds,
      megabytes(report.decode_bytes), megabytes(report.prefill_bytes));
}

}  // namespace

void add_quantize(CLI::App& app) {
  auto* command = app.add_subcommand(
      "quantize",
      "make a package: int4 weights for decode, static int8 for prefill, from a float checkpoint");
  auto flags = std::make_shared<QuantizeFlags>();
  Recipe& recipe = flags->recipe;
  command->add_option("checkpoint", flags->checkpoint, "folder with config.json and safetensors")
      ->required();
  command
      ->add_option("-o,--output", flags->output,
                   "folder of the package; replaced whole if it is a package or empty")
      ->required();
  command
      ->add_option("--calib", flags->calibration,
                   "text file that activation scales are calibrated on")
      ->required();
  command
      ->add_option("--group-size", recipe.group_size,
                   "weights that share an int4 scale: 32, 64 or 128")
      ->capture_default_str()
      ->check(CLI::IsMember({32, 64, 128}));
  command->add_option("--lm-head", flags->lm_head, "group size of the head's int4, or float")
      ->capture_default_str()
      ->check(CLI::IsMember({"32", "64", "128", "float"}));
  command
      ->add_option("--exclude", recipe.exclude,
                   "module that stays float, such as \"*.down_proj\"; may be repeated")
      ->allow_extra_args(false);
  command
      ->add_option("--input-scale", recipe.input_scale,
                   "static activation scale: least_error, max or percentile (99.9) of |x|")
      ->capture_default_str()
      ->check(CLI::IsMember({"least_error", "max", "percentile"}));
  command->add_option("--samples", recipe.samples, "calibration windows, at most")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--seq-len", recipe.window, "tokens in a calibration window")
      ->capture_default_str()
      ->check(CLI::Range(2, 1 << 20));
  command->add_option("--chunk", recipe.chunk, "prompt tokens that the NPU reads at once")
      ->capture_default_str()
      ->check(CLI::Range(1, 4096));
  command->add_option("-t,--threads", flags->threads, "threads (default: one per core)")
      ->check(CLI::Range(1, 64));
  command->add_flag("--json", flags->json, "one JSON object on standard output");
  command->callback([flags] { quantize(*flags); });
}

}  // namespace tandem::cli
