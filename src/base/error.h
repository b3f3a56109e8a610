// The one family of exceptions of the project, and how a message is built.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace tandem {

enum class ErrorCode {
  kInvalidArgument,  // the caller asked for something that makes no sense
  kNotFound,         // a file, tensor or key that must exist does not
  kIo,               // the operating system refused
  kFormat,           // a file or request is malformed
  kUnsupported,      // well formed, but not something this build can do
  kCancelled,        // the user stopped it
  kInternal,         // a mistake of ours
};

// Name of a code as it appears in messages and JSON, such as "invalid_argument".
const char* to_string(ErrorCode code) noexcept;

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

// Throws Error. Messages name the part in brackets, the place, what was found and what was
// expected:
//   fail(ErrorCode::kFormat, "[safetensors] {}: header is {} bytes, file has {}", path, n, size);
template <typename... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace tandem
