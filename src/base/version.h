// The version of this build, as recorded in packages and reports.
#pragma once

#include <string_view>

namespace tandem {

// Such as "0.1.0".
std::string_view build_version() noexcept;

}  // namespace tandem
