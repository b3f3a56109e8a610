// Checks the ranges of search options.
#include "runtime/search_options.h"

#include <cmath>

#include "base/error.h"

namespace tandem {

void validate(const SearchOptions& options) {
  const auto require = [](bool ok, const char* name, const char* expected, double got) {
    if (!ok)
      fail(ErrorCode::kInvalidArgument, "[search] {}: expected {}, got {}", name, expected, got);
  };
  require(options.temperature > 0 && std::isfinite(options.temperature), "temperature",
          "a number above 0", options.temperature);
  require(options.top_k >= 0, "top_k", "0 or more", static_cast<double>(options.top_k));
  require(options.top_p > 0 && options.top_p <= 1, "top_p", "a number in (0, 1]", options.top_p);
  require(options.repetition_penalty > 0 && std::isfinite(options.repetition_penalty),
          "repetition_penalty", "a number above 0", options.repetition_penalty);
  require(options.min_length >= 0, "min_length", "0 or more",
          static_cast<double>(options.min_length));
  require(options.max_length >= 0, "max_length", "0 or more",
          static_cast<double>(options.max_length));
}

}  // namespace tandem
