// The text that is calibrated on where none is given: this project's documentation.
#pragma once

#include <string_view>

namespace tandem {

// UTF-8. Compiled in (cmake/embed_text.cmake).
std::string_view built_in_text() noexcept;

}  // namespace tandem
