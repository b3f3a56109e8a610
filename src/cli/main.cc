// The program: parses the command line, runs one subcommand, turns errors into a one-line message
// and an exit status.
#include <exception>
#include <iostream>
#include <new>

#include "base/error.h"
#include "base/mapping_fault.h"
#include "base/version.h"
#include "cli/commands.h"
#include "cli/log.h"

namespace {

// 2 for errors that the user can fix (arguments, files), 1 for all others, 130 after Ctrl-C, as in
// shells.
int exit_status(tandem::ErrorCode code) {
  switch (code) {
    case tandem::ErrorCode::kInvalidArgument:
    case tandem::ErrorCode::kNotFound:
    case tandem::ErrorCode::kFormat:
    case tandem::ErrorCode::kUnsupported:
      return 2;
    case tandem::ErrorCode::kCancelled:
      return 130;
    case tandem::ErrorCode::kIo:
    case tandem::ErrorCode::kInternal:
      return 1;
  }
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  using tandem::cli::LogLevel;
  tandem::install_mapping_fault_handler();
  CLI::App app{
      "tandem: language models on two processors, the prompt on an NPU in int8, the answer on the "
      "CPU in int4",
      "tandem"};
  app.set_version_flag("--version", std::string(tandem::build_version()));
  app.require_subcommand(1);
  app.fallthrough();
  bool quiet = false, verbose = false;
  app.add_flag("-q,--quiet", quiet, "no progress, warnings and errors only");
  app.add_flag("-v,--verbose", verbose, "more about what happens");
  app.parse_complete_callback([&] {
    tandem::cli::set_up_log(quiet     ? LogLevel::kQuiet
                            : verbose ? LogLevel::kVerbose
                                      : LogLevel::kNormal);
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
  tandem::cli::add_synth(app);
  tandem::cli::add_convert(app);
  tandem::cli::add_completion(app);

  try {
    app.parse(argc, argv);
    // A full disk may only show when the last of the output is written.
    if (!std::cout.flush()) {
      spdlog::error("[cli] cannot write to standard output");
      return 1;
    }
    return 0;
  } catch (const CLI::ParseError& error) {
    const int status = app.exit(error);
    return status == 0 ? 0 : 2;
  } catch (const tandem::Error& error) {
    spdlog::error("{}", error.what());
    return exit_status(error.code());
  } catch (const std::bad_alloc&) {
    spdlog::error("[cli] out of memory");
    return 1;
  } catch (const std::exception& error) {
    spdlog::error("unexpected: {}", error.what());
    return 1;
  }
}
