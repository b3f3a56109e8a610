// The subcommands of the program: each registers itself with the command line and runs when parsed.
#pragma once

#include <CLI/CLI.hpp>

#include <string>

#include "base/json.h"
#include "cli/interrupt.h"
#include "runtime/local_model.h"

namespace tandem::cli {

void add_inspect(CLI::App& app);
void add_quantize(CLI::App& app);
void add_run(CLI::App& app);
void add_logits(CLI::App& app);
void add_template(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_detokenize(CLI::App& app);
void add_eval(CLI::App& app);
void add_compare(CLI::App& app);
void add_bench(CLI::App& app);
void add_devices(CLI::App& app);
void add_synth(CLI::App& app);
void add_convert(CLI::App& app);
// `app` is the whole program, whose commands are described.
void add_completion(CLI::App& app);

// The options of every command that loads a model: --mode, -t, --chunk, --kernels, --cache,
// --no-cache, --verify.
struct ModelFlags {
  std::string model;
  std::string mode;
  int threads = 0;
  std::int64_t chunk = 0;
  std::string kernels;
  std::string cache;
  bool no_cache = false;
  bool verify = false;

  void add_to(CLI::App& command, bool with_mode = true);
  LoadOptions load_options() const;
};

// Reads a file; empty or "-" means standard input.
std::string read_input(const std::string& file);

// Prints one JSON object to standard output.
void print_json(const OrderedJson& object);

// Megabytes (10^6 bytes) with one decimal.
std::string megabytes(std::int64_t bytes);

}  // namespace tandem::cli
