// Names of phases.
#include "devices/device.h"

namespace tandem {

std::string_view to_string(Phase phase) noexcept {
  return phase == Phase::kPrefill ? "prefill" : "decode";
}

}  // namespace tandem
