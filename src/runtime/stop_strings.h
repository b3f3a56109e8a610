// Ends a text at given strings, as it is written piece by piece.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tandem {

// Holds back the end of a text while it may be the beginning of a stop string.
class StopStrings {
 public:
  // Empty strings stop nothing.
  explicit StopStrings(std::vector<std::string> stops);

  // Appends a piece. Returns what is certain to be before any stop string; from the first one on,
  // nothing.
  std::string put(std::string_view piece);
  // What is still held back, at the end of the text; nothing if a stop string was found.
  std::string finish();
  bool found() const noexcept { return found_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool found_ = false;
};

}  // namespace tandem
