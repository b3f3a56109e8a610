// Times as text, for strftime_now.
#pragma once

#include <ctime>
#include <string>
#include <string_view>

#include "text/jinja/budget.h"

namespace tandem::jinja {

// As Python's strftime in the C locale; throws Failure for a conversion that is not known.
std::string format_time(const std::tm& time, std::string_view format, Budget& budget);

}  // namespace tandem::jinja
