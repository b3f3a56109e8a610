// Resource limits of a template, and the error thrown by operations that do not know their location
// in the template.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "base/error.h"

namespace tandem::jinja {

// Work is 1 for each step of the evaluator and for each kBytesPerWork bytes produced or searched.
inline constexpr std::size_t kBytesPerWork = 16;
// Size of one string, and of the output.
inline constexpr std::size_t kMaxTextBytes = std::size_t{64} << 20;
// For nesting, such as lists in lists.
inline constexpr int kMaxValueDepth = 200;
// Depth of the expression tree; real templates use less than 20.
inline constexpr int kMaxExpressionDepth = 200;
inline constexpr int kMaxStatementDepth = 60;
// Nested evaluator calls, including macros; about 1 KiB of stack each.
inline constexpr int kMaxEvaluationDepth = 1000;
// As in Jinja's sandbox.
inline constexpr std::int64_t kMaxRange = 100000;

// Thrown by operations on values; the evaluator adds the location and turns it into an Error.
struct Failure {
  std::string message;
  ErrorCode code = ErrorCode::kFormat;
};

template <typename... Args>
[[noreturn]] void fail_here(fmt::format_string<Args...> format, Args&&... args) {
  throw Failure{fmt::format(format, std::forward<Args>(args)...)};
}

class Budget {
 public:
  explicit Budget(std::int64_t limit) : limit_(limit), left_(limit) {}

  void spend(std::size_t work = 1) {
    if (work > static_cast<std::size_t>(left_))
      fail_here("the template does too much work, limit {}", limit_);
    left_ -= static_cast<std::int64_t>(work);
  }
  void spend_bytes(std::size_t bytes) { spend(1 + bytes / kBytesPerWork); }
  // For a string of `bytes`: must be called before creating the string.
  void spend_text(std::size_t bytes) {
    if (bytes > kMaxTextBytes) fail_here("a text of {} bytes, limit {}", bytes, kMaxTextBytes);
    spend_bytes(bytes);
  }

 private:
  std::int64_t limit_;
  std::int64_t left_;
};

}  // namespace tandem::jinja
