// The project's one exception type, which is public, and how its messages are built.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

#include <tandem/error.hpp>

namespace tandem {

// Throws Error. A message names the module in brackets, the location, what was found and what was
// expected:
//   fail(ErrorCode::kFormat, "[safetensors] {}: header is {} bytes, file has {}", path, n, size);
template <typename... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace tandem
