// Shared by the fuzzers: presenting an input as a file, as the parsers expect it, and the
// definition of a finding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/error.h"
#include "base/files.h"

namespace tandem::fuzz {

using Input = std::span<const std::uint8_t>;

inline std::string_view as_text(Input input) {
  return {reinterpret_cast<const char*>(input.data()), input.size()};
}

// A file in memory with the given bytes, gone with this object.
class InputFile {
 public:
  explicit InputFile(Input input);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  fs::path path() const;

 private:
  int file_;
};

// A finding that no sanitizer sees, such as an id outside the vocabulary: ends the program.
void require(bool holds, std::string_view what);

// Runs a parser. An Error is a valid outcome, unless it is an internal one; any other exception is
// a finding.
template <typename Action>
int parse(Action action) {
  try {
    action();
  } catch (const Error& error) {
    require(error.code() != ErrorCode::kInternal, error.what());
  }
  return 0;
}

}  // namespace tandem::fuzz
