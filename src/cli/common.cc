// Functions that the subcommands share.
#include <iostream>
#include <iterator>

#include "base/error.h"
#include "cli/commands.h"

namespace tandem::cli {
std::string read_input(const std::string& file) {
  if (!file.empty() && file != "-") return read_text_file(file);
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

void ModelFlags::add_to(CLI::App& command, bool with_mode) {
  command
      .add_option("model", model,
                  "package, checkpoint folder, or a checkpoint's file such as a GGUF")
      ->required();
  if (with_mode) {
    command
        .add_option("--mode", mode,
                    "hybrid (default for a package), cpu (int4 only) or float (checkpoints)")
        ->check(CLI::IsMember({"hybrid", "cpu", "float"}));
  }
  command.add_option("-t,--threads", threads, "threads (default: one per core)")
      ->check(CLI::Range(1, 64));
  command
      .add_option("--chunk", chunk,
                  "prompt tokens that a program reads at once (default: the package's)")
      ->check(CLI::Range(1, 4096));
  command.add_option("--kernels", kernels,
                     "kernel table, as tandem devices lists them (default: the fastest)");
  command.add_option("--cache", cache,
                     "folder of packed weights (default: ~/.cache/tandem, or $TANDEM_CACHE)");
  command.add_flag("--no-cache", no_cache, "pack weights in memory, keep no files");
  command.add_flag("--verify", verify,
                   "read and check every byte of a package, whatever was checked before");
}

LoadOptions ModelFlags::load_options() const {
  LoadOptions options;
  if (!mode.empty()) options.mode = mode_from_string(mode);
  options.engine.threads = threads;
  options.engine.chunk = chunk;
  options.engine.kernels = kernels;
  options.verify = verify;
  if (no_cache) {
    options.cache = fs::path();
  } else if (!cache.empty()) {
    options.cache = cache;
  }
  return options;
}

void print_json(const OrderedJson& object) {
  // Text from files may contain invalid UTF-8: it is replaced, not an error.
  std::cout << object.dump(2, ' ', false, OrderedJson::error_handler_t::replace) << '\n'
            << std::flush;
}

std::string megabytes(std::int64_t bytes) {
  return fmt::format("{:.1f}", static_cast<double>(bytes) * 1e-6);
}

}  // namespace tandem::cli
