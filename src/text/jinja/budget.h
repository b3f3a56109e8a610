// What a template may use, and the error of an operation that does not know where in the template
// it stands.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "base/error.h"

namespace tandem::jinja {

// Work is 1 for each step of the evaluator and for each kBytesPerWork bytes made or searched.
inline constexpr std::size_t kBytesPerWork = 16;
inline constexpr std::size_t kMaxTextBytes = std::size_t{64}
                                             << 20;  // of one string, and of the output
inline constexpr int kMaxValueDepth = 200;           // lists in lists
inline constexpr int kMaxExpressionDepth = 200;      // of the tree; people write less than 20
inline constexpr int kMaxStatementDepth = 60;
inline constexpr int kMaxEvaluationDepth =
    1000;  // nested evaluator calls, macros included; about 1 KiB of stack each
inline constexpr std::int64_t kMaxRange = 100000;  // as in Jinja's sandbox

// Thrown by operations on values; the evaluator adds the place and makes it an Error.
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
  // For a string that will have `bytes`: call it before making the string.
  void spend_text(std::size_t bytes) {
    if (bytes > kMaxTextBytes) fail_here("a text of {} bytes, limit {}", bytes, kMaxTextBytes);
    spend_bytes(bytes);
  }

 private:
  std::int64_t limit_;
  std::int64_t left_;
};

}  // namespace tandem::jinja
