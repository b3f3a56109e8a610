// Operations on strings that filters and methods share.
#pragma once

#include <string_view>
#include <vector>

#include "text/jinja/runtime.h"

namespace tandem::jinja {

enum class Side { kLeft, kRight, kBoth };

// Removes the characters in `chars` from the ends, or white space if it is null.
Text strip(const Text& text, const Text* chars, Side side);
// Replaces up to `count` occurrences; all of them if it is negative.
Text replace(const Text& text, const Text& old, const Text& by, std::int64_t count, Budget& budget);
// First letter of each run of letters in upper case, the rest in lower case.
Text title(const Text& text);
Text capitalize(const Text& text);
// The lines of a text, without their line endings unless `keep_ends`.
std::vector<Text> split_lines(const Text& text, bool keep_ends, Budget& budget);
// Pads to `width` characters with `fill`: before, after or on both sides.
Text pad(const Text& text, std::int64_t width, std::string_view fill, Side side, Budget& budget);
Text join(const std::vector<Text>& parts, const Text& separator, Budget& budget);

}  // namespace tandem::jinja
