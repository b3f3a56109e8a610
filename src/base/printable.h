// Makes text from a file or a request safe to print in a message or on a terminal.
#pragma once

#include <string>
#include <string_view>

namespace tandem {

// At most 80 bytes of `text`, with anything but printable ASCII as \xNN, and "..." if text was cut
// off.
std::string printable(std::string_view text);

}  // namespace tandem
