// The program: parses the command line, runs one subcommand, turns errors into a one-line message
// and an exit status.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <iostream>
#include <new>

#include "base/cpu_features.h"
#include "base/error.h"
#include "base/mapping_fault.h"
#include "base/version.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/log.h"

namespace {

constexpr const char* kFooter =
    "Status: 0 success; 1 the system refused an operation, or a bug in tandem; 2 an error that you "
    "can fix: arguments, files, an unsupported model; 3 --max-kl: not good enough; 130 after "
    "Ctrl-C, 143 after SIGTERM.\n"
    "In flags \"_\" is the same as \"-\"; the usual flags of llama.cpp and Hugging Face are known "
    "too. "
    "A file called - is standard input. Every command takes -q (no progress) and -v (more about "
    "what happens).";

// What `tandem` alone prints: the way from a model to an answer.
constexpr const char* kOverview =
    "tandem: language models on two processors, the prompt on an NPU in int8, the answer on the "
    "CPU "
    "in int4\n"
    "\n"
    "The usual way, with a model folder from Hugging Face in MODEL:\n"
    "  tandem inspect MODEL                                   what it is, and whether it is "
    "supported\n"
    "  tandem run MODEL -p \"Once upon a time\"                try it as it is\n"
    "  tandem quantize MODEL -o PACKAGE --calib TEXT          make a package for both processors\n"
    "  tandem run PACKAGE --chat                              talk with it\n"
    "  tandem compare MODEL PACKAGE --text TEXT               what was lost, what was gained\n"
    "\n"
    "TEXT is a text file of the kind that the model will read. Files such as model.gguf do for "
    "MODEL.\n"
    "tandem help lists the commands, tandem help COMMAND the flags of one.\n";

// 2 for errors that the user can fix (arguments, files), 1 for all others, 130 after Ctrl-C and 143
// after SIGTERM, as in shells.
int exit_status(tandem::ErrorCode code) {
  switch (code) {
    case tandem::ErrorCode::kInvalidArgument:
    case tandem::ErrorCode::kNotFound:
    case tandem::ErrorCode::kFormat:
    case tandem::ErrorCode::kUnsupported:
      return 2;
    case tandem::ErrorCode::kCancelled:
      return tandem::cli::interrupt_status();
    case tandem::ErrorCode::kIo:
    case tandem::ErrorCode::kInternal:
      return 1;
  }
  return 1;
}

// With -v: what the command took, once it is done.
void say_cost(std::chrono::steady_clock::time_point start) {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  spdlog::debug("done after {:.2f} s, peak memory {:.1f} MB",
                std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
                static_cast<double>(usage.ru_maxrss) * 1024e-6);
}

}  // namespace

int main(int argc, char** argv) {
  using tandem::cli::LogLevel;
  const auto start = std::chrono::steady_clock::now();
  // What is wrong with the command line itself is said in the usual form, too.
  tandem::cli::set_up_log(LogLevel::kNormal);
  tandem::install_mapping_fault_handler();
  CLI::App app{
      "tandem: language models on two processors, the prompt on an NPU in int8, the answer on the "
      "CPU in int4",
      "tandem"};
  app.set_version_flag("--version", std::string(tandem::build_version()));
  app.require_subcommand(1);
  app.fallthrough();
  app.footer(kFooter);
  bool quiet = false, verbose = false;
  app.add_flag("-q,--quiet", quiet, "no progress, warnings and errors only");
  app.add_flag("-v,--verbose", verbose, "more about what happens");
  app.parse_complete_callback([&] {
    tandem::cli::set_up_log(quiet     ? LogLevel::kQuiet
                            : verbose ? LogLevel::kVerbose
                                      : LogLevel::kNormal);
    if (!verbose) return;
    const tandem::CpuFeatures features = tandem::detect_cpu_features();
    spdlog::debug("version {}, {}, {}", tandem::build_version(), features.model,
                  features.summary());
  });

  tandem::cli::add_inspect(app);
  tandem::cli::add_quantize(app);
  tandem::cli::add_run(app);
  tandem::cli::add_logits(app);
  tandem::cli::add_template(app);
  tandem::cli::add_tokenize(app);
  tandem::cli::add_detokenize(app);
  tandem::cli::add_eval(app);
  tandem::cli::add_compare(app);
  tandem::cli::add_bench(app);
  tandem::cli::add_devices(app);
  tandem::cli::add_cache(app);
  tandem::cli::add_report(app);
  tandem::cli::add_synth(app);
  tandem::cli::add_convert(app);
  tandem::cli::add_build(app);
  tandem::cli::add_profile(app);
  tandem::cli::add_export_qnn(app);
  tandem::cli::add_export_rotated(app);
  tandem::cli::add_completion(app);

  // Both are rewritten to flags; they stand here for the list of commands.
  app.add_subcommand("help", "the commands, or the flags of one: tandem help COMMAND");
  app.add_subcommand("version", "the version of this build");
  tandem::cli::let_the_last_win(app);
  tandem::cli::describe_aliases(app);

  tandem::cli::CommandLine line;
  try {
    line = tandem::cli::spell_out(app, {argv + 1, argv + argc});
    std::vector<std::string> words = line.words;
    // No command and nothing else that has an answer: the overview, as git and cargo print it.
    const auto is_flag_of_log = [](const std::string& word) {
      return word == "--quiet" || word == "--verbose";
    };
    if (std::ranges::all_of(words, is_flag_of_log)) {
      std::cout << kOverview;
    } else {
      // The parser takes words from the end.
      std::ranges::reverse(words);
      app.parse(words);
    }
    // A full disk may only show when the last of the output is written.
    if (!std::cout.flush()) {
      spdlog::error("[cli] cannot write to standard output");
      return 1;
    }
    say_cost(start);
    return 0;
  } catch (const CLI::ParseError& error) {
    // Help and the version are thrown, too.
    if (error.get_exit_code() == 0) return app.exit(error) == 0 && std::cout.flush() ? 0 : 1;
    spdlog::error("{}", tandem::cli::describe_parse_error(error.what(), line.command));
    return 2;
  } catch (const tandem::cli::NotGoodEnough& error) {
    spdlog::error("{}", error.what());
    return 3;
  } catch (const tandem::Error& error) {
    const bool missing = error.code() == tandem::ErrorCode::kNotFound;
    const std::string message = tandem::cli::name_standard_input(error.what());
    spdlog::error("{}{}", message, missing ? tandem::cli::hint_for_missing(message, line) : "");
    return exit_status(error.code());
  } catch (const std::bad_alloc&) {
    spdlog::error("[cli] out of memory");
    return 1;
  } catch (const std::exception& error) {
    spdlog::error("unexpected: {}", error.what());
    return 1;
  }
}
