// Python's two ways of formatting strings: '%s of %d' % (…) and '{} of {}'.format(…).
#pragma once

#include "text/jinja/runtime.h"

namespace tandem::jinja {

Value format_percent(Runtime& runtime, const Text& pattern, const Arguments& arguments);
Value format_braces(Runtime& runtime, const Text& pattern, const Arguments& arguments);

}  // namespace tandem::jinja
