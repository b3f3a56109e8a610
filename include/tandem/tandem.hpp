// The public C++ API of tandem.
#pragma once

namespace tandem {

// Version of the library, such as "0.1.0".
const char* version() noexcept;

}  // namespace tandem
