// Text of a file or request, made fit for a message or a terminal.
#pragma once

#include <string>
#include <string_view>

namespace tandem {

// At most 80 bytes of `text`, with what is not printable ASCII as \xNN, and "..." if there was
// more.
std::string printable(std::string_view text);

}  // namespace tandem
