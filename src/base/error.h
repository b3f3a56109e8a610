// The project's one exception type, and how its messages are built.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace tandem {

enum class ErrorCode {
  // The caller asked for something invalid.
  kInvalidArgument,
  // A file, tensor or key that must exist does not.
  kNotFound,
  // The operating system refused an operation.
  kIo,
  // A file or request is malformed.
  kFormat,
  // Well formed, but not supported by this build.
  kUnsupported,
  // The user cancelled the operation.
  kCancelled,
  // A bug in tandem.
  kInternal,
};

// The name of a code as it appears in messages and JSON, such as "invalid_argument".
const char* to_string(ErrorCode code) noexcept;

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

// Throws Error. A message names the module in brackets, the location, what was found and what was
// expected:
//   fail(ErrorCode::kFormat, "[safetensors] {}: header is {} bytes, file has {}", path, n, size);
template <typename... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace tandem
