// The version, as set by the build.
#include "base/version.h"

namespace tandem {

std::string_view build_version() noexcept { return TANDEM_VERSION; }

}  // namespace tandem
