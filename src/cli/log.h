// Messages for the user, on standard error; standard output is reserved for results.
#pragma once

#include <spdlog/spdlog.h>

namespace tandem::cli {

enum class LogLevel { kQuiet, kNormal, kVerbose };

// Routes spdlog to standard error with the format "tandem: message" (warnings and errors have their
// level in front).
void set_up_log(LogLevel level);

}  // namespace tandem::cli
