// Part of a text, as a range of bytes.
#pragma once

#include <cstddef>
#include <string_view>

namespace tandem {

// Bytes [begin, end) of a text.
struct TextSpan {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::size_t size() const noexcept { return end - begin; }
  std::string_view of(std::string_view text) const { return text.substr(begin, end - begin); }
};

}  // namespace tandem
