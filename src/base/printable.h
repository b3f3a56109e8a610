// Makes text from a file or a request safe to print in a message or on a terminal.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace tandem {

// At most 80 bytes of `text`, with anything but printable ASCII as \xNN, and "..." if text was cut
// off.
std::string printable(std::string_view text);

// A list of any length in a few words: "a, b, c and 29 more".
std::string first_of(std::span<const std::string> names);

}  // namespace tandem
