// The exception that every function of tandem throws.
#pragma once

#include <stdexcept>
#include <string>

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

// what() is one line: "[module] FILE or argument: what was expected, what was found".
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace tandem
