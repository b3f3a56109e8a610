// The version that the build was configured with.
#include "tandem/tandem.hpp"

namespace tandem {

const char* version() noexcept { return TANDEM_VERSION; }

}  // namespace tandem
