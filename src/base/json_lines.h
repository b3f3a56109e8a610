// The line of each key in a JSON text, for errors that people can act on.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace tandem {

// Maps paths to line numbers, "rules[2].match" -> 14, for text that parse_json() accepts. Lines
// count from 1.
std::map<std::string, int> json_lines(std::string_view text);

}  // namespace tandem
