// The public C++ API of tandem.
#pragma once

#include <string_view>

namespace tandem {

// Version of the library, such as "0.1.0".
std::string_view version() noexcept;

}  // namespace tandem
