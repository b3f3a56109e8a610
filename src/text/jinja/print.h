// Values as text, in the format of Python's str() and repr().
#pragma once

#include <string>

#include "text/jinja/value.h"

namespace tandem::jinja {

// str(value).
Text print(const Value& value, Budget& budget);
// repr(value): strings in quotes.
Text print_repr(const Value& value, Budget& budget);
// The shortest digits that read back as `number`, in Python's format: 1.0, 0.1, 1e+16, inf.
std::string print_float(double number);

}  // namespace tandem::jinja
