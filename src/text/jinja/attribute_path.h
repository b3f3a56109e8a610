// The "attribute" of filters such as map and sort: "a.0.b" is a path.
#pragma once

#include <string_view>

#include "text/jinja/operators.h"

namespace tandem::jinja {

// `path` is a string, or an integer that is itself the whole path. Undefined in the middle of the
// path is an error, at its end it is not.
Value follow_path(Runtime& runtime, const Value& value, const Value& path);

// The key that a filter sorts and compares by: the attribute if one is given, in lower case unless
// `case_sensitive`.
Value sort_key(Runtime& runtime, const Value& value, const Value& path, bool case_sensitive);

}  // namespace tandem::jinja
