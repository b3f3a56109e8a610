// tandem bench and tandem devices: speeds compared with the machine's peaks.
#include <iostream>

#include "base/cpu_features.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/terminal_observer.h"
#include "runtime/benchmark.h"

namespace tandem::cli {
namespace {

struct BenchFlags {
  ModelFlags model;
  BenchmarkOptions options;
  bool json = false;
};

OrderedJson peaks_json(const Peaks& peaks) {
  return {{"int8_gops", peaks.int8_gops},
          {"int8_vector_gops", peaks.int8_vector_gops},
          {"int8_kernels", peaks.int8_kernels},
          {"read_gbps", peaks.read_gbps}};
}

void bench(const BenchFlags& flags) {
  catch_interrupt(kInterruptGrace);
  TerminalObserver observer;
  const auto model = LocalModel::open(flags.model.model, flags.model.load_options(), observer);
  Engine& engine = model->engine;
  const BenchmarkResult result = run_benchmark(*model, flags.options, observer);
  const std::string cpu = detect_cpu_features().model;
  const auto end = [&] {
    if (!observer.cancelled()) return;
    fail(ErrorCode::kCancelled, "[bench] interrupted: the figures are those of {} of {} rounds",
         result.repetitions, flags.options.repetitions);
  };
  if (flags.json) {
    OrderedJson report = {{"model", flags.model.model},
                          {"mode", engine.plan().name},
                          {"kv", kv_text(*model)},
                          {"threads", engine.pool().threads()},
                          {"kernels", engine.kernels().name},
                          {"cpu", cpu},
                          {"repetitions", result.repetitions},
                          {"peaks", peaks_json(result.peaks)},
                          {"prefill", OrderedJson::array()},
                          {"decode", OrderedJson::array()}};
    for (const PrefillSpeed& speed : result.prefill) {
      report["prefill"].push_back(
          {{"tokens", speed.tokens},
           {"tokens_per_s", speed.tokens_per_s},
           {"tokens_per_s_deviation", speed.tokens_per_s_deviation},
           {"percent_of_int8_peak", speed.percent_of_int8_peak},
           {"percent_of_int8_vector_peak", speed.percent_of_int8_vector_peak},
           {"ttft_ms", speed.ttft_ms}});
    }
    for (const DecodeSpeed& speed : result.decode) {
      report["decode"].push_back({{"context", speed.context},
                                  {"tokens_per_s", speed.tokens_per_s},
                                  {"tokens_per_s_deviation", speed.tokens_per_s_deviation},
                                  {"read_gbps", speed.read_gbps},
                                  {"percent_of_read_peak", speed.percent_of_read_peak}});
    }
    report["ttft_ms"] = result.prefill.empty() ? 0.0 : result.prefill.front().ttft_ms;
    print_json(report);
    end();
    return;
  }
  std::cout << fmt::format(
      "{}\n{}, {} threads, kernels {}; peaks: {:.0f} int8 GOP/s, {:.1f} GB/s read\n", cpu,
      mode_text(*model), engine.pool().threads(), engine.kernels().name, result.peaks.int8_gops,
      result.peaks.read_gbps);
  const bool matrix_unit = result.peaks.int8_vector_gops != result.peaks.int8_gops;
  if (matrix_unit) {
    std::cout << fmt::format("peak of the vector instructions alone: {:.0f} int8 GOP/s\n",
                             result.peaks.int8_vector_gops);
  }
  for (const PrefillSpeed& speed : result.prefill) {
    std::cout << fmt::format(
        "prefill {:6} tokens   {:9.1f} ± {:.1f} tokens/s  {:5.1f} % of int8 peak   first token "
        "{:.1f} ms\n",
        speed.tokens, speed.tokens_per_s, speed.tokens_per_s_deviation, speed.percent_of_int8_peak,
        speed.ttft_ms);
    if (matrix_unit) {
      std::cout << fmt::format("{:41}{:5.1f} % of vector peak\n", "",
                               speed.percent_of_int8_vector_peak);
    }
  }
  for (const DecodeSpeed& speed : result.decode) {
    std::cout << fmt::format(
        "decode at {:6} tokens {:9.1f} ± {:.1f} tokens/s  {:5.1f} % of reads       {:.1f} GB/s\n",
        speed.context, speed.tokens_per_s, speed.tokens_per_s_deviation, speed.percent_of_read_peak,
        speed.read_gbps);
  }
  end();
}

struct DevicesFlags {
  int threads = 0;
  bool json = false;
};

void devices(const DevicesFlags& flags) {
  const CpuFeatures features = detect_cpu_features();
  ThreadPool pool(flags.threads > 0 ? flags.threads : default_threads());
  const std::vector<const Kernels*> tables = available_kernels(features);
  const Kernels& fastest = select_kernels(features);
  OrderedJson kernels = OrderedJson::array();
  const Peaks peaks = measure_peaks(fastest, pool);
  for (const Kernels* table : tables) {
    if (table->name == "ref" && tables.size() > 1) continue;  // measures nothing but the compiler
    const bool selected = table == &fastest;
    kernels.push_back({{"name", table->name},
                       {"int8_gops", selected ? peaks.int8_gops : measure_int8_gops(*table, pool)},
                       {"selected", selected}});
  }
  if (flags.json) {
    print_json({{"cpu",
                 {{"model", features.model},
                  {"features", features.summary()},
                  {"threads", pool.threads()},
                  {"kernels", kernels}}},
                {"npu", {{"executor", "host"}, {"runs_on", "cpu"}, {"int8_gops", peaks.int8_gops}}},
                {"peaks", peaks_json(peaks)}});
    return;
  }
  std::cout << fmt::format("cpu   {}, {} threads\n      {}\n", features.model, pool.threads(),
                           features.summary());
  for (const auto& table : kernels) {
    std::cout << fmt::format("      kernels {:12} {:8.0f} int8 GOP/s{}\n",
                             table["name"].get<std::string>(), table["int8_gops"].get<double>(),
                             table["selected"].get<bool>() ? "  (used)" : "");
  }
  std::cout << fmt::format("      memory {:.1f} GB/s read\n", peaks.read_gbps);
  std::cout << fmt::format(
      "npu   host: the static int8 contract on the CPU's integer kernels, {:.0f} int8 GOP/s\n",
      peaks.int8_gops);
}

}  // namespace

void add_bench(CLI::App& app) {
  auto* command = app.add_subcommand(
      "bench", "prompt and decode speed, beside the int8 and memory bounds of this machine");
  auto flags = std::make_shared<BenchFlags>();
  flags->model.add_to(*command);
  command->add_option("-p,--prompt", flags->options.prompts, "prompt lengths in tokens")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->capture_default_str();
  command->add_option("-g,--generate", flags->options.generate, "tokens to write after each prompt")
      ->capture_default_str();
  command
      ->add_option("-r,--repetitions", flags->options.repetitions,
                   "counted runs, after one that warms up")
      ->capture_default_str();
  command->add_flag("--json", flags->json, "one JSON object on standard output");
  command->callback([flags] { bench(*flags); });
}

void add_devices(CLI::App& app) {
  auto* command = app.add_subcommand("devices", "what this machine has, with measured peaks");
  auto flags = std::make_shared<DevicesFlags>();
  command->add_option("-t,--threads", flags->threads, "threads (default: one per core)")
      ->check(CLI::Range(1, 64));
  command->add_flag("--json", flags->json, "one JSON object on standard output");
  command->callback([flags] { devices(*flags); });
}

}  // namespace tandem::cli
