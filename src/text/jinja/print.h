// Values as text: as str() and repr() of Python write them.
#pragma once

#include <string>

#include "text/jinja/value.h"

namespace tandem::jinja {

Text print(const Value& value, Budget& budget);       // str(value)
Text print_repr(const Value& value, Budget& budget);  // strings in quotes
// The shortest digits that read back as `number`, written as Python does: 1.0, 0.1, 1e+16, inf.
std::string print_float(double number);

}  // namespace tandem::jinja
