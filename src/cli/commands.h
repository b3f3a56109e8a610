// The subcommands of the program: each adds itself to the command line and runs when parsed.
#pragma once

#include <CLI/CLI.hpp>

#include <string>

#include "base/json.h"
#include "runtime/loaded_model.h"

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

// Options of every command that loads a model: --mode, -t, --chunk, --kernels, --cache, --no-cache.
struct ModelFlags {
  std::string model;
  std::string mode;
  int threads = 0;
  std::int64_t chunk = 0;
  std::string kernels;
  std::string cache;
  bool no_cache = false;

  void add_to(CLI::App& command, bool with_mode = true);
  LoadOptions load_options() const;
};

// The content of a file; empty or "-": standard input.
std::string read_input(const std::string& file);

// Prints one JSON object on standard output.
void print_json(const OrderedJson& object);

// Megabytes with one decimal, 10^6 bytes.
std::string megabytes(std::int64_t bytes);

// True once Ctrl-C was pressed; after catch_interrupt(), long work that can end cleanly looks at
// it. A second Ctrl-C ends the program at once. With `ends_reads` a read of standard input that
// waits then fails with EINTR.
void catch_interrupt(bool ends_reads = false);
bool interrupted() noexcept;
void reset_interrupt() noexcept;  // what was pressed before is forgotten

}  // namespace tandem::cli
