// The version of the library, for those who use it from outside.
#include "base/version.h"

#include "tandem/tandem.hpp"

namespace tandem {

std::string_view version() noexcept { return build_version(); }

}  // namespace tandem
