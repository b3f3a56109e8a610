// The version of this build, as packages and reports name it.
#pragma once

#include <string_view>

namespace tandem {

std::string_view build_version() noexcept;  // "0.1.0"

}  // namespace tandem
