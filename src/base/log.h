// Messages for people, on standard error; standard output belongs to results.
#pragma once

#include <spdlog/spdlog.h>

namespace tandem {

enum class LogLevel { kQuiet, kNormal, kVerbose };

// Routes spdlog to standard error with the format "tandem: message" (warnings and errors say so).
void set_up_log(LogLevel level);

}  // namespace tandem
