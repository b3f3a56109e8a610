// Formats times for strftime_now.
#pragma once

#include <ctime>
#include <string>
#include <string_view>

#include "text/jinja/budget.h"

namespace tandem::jinja {

// Like Python's strftime in the C locale; throws Failure for an unknown conversion.
std::string format_time(const std::tm& time, std::string_view format, Budget& budget);

}  // namespace tandem::jinja
