// Makes untrusted text printable.
#include "base/printable.h"

#include <fmt/format.h>

#include <algorithm>

namespace tandem {

std::string printable(std::string_view text) {
  constexpr std::size_t kLongest = 80;
  std::string out;
  for (const char c : text.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  if (text.size() > kLongest) out += "...";
  return out;
}

std::string first_of(std::span<const std::string> names) {
  constexpr std::size_t kShown = 3;
  std::string out;
  for (const std::string& name : names.first(std::min(names.size(), kShown)))
    out += fmt::format("{}{}", out.empty() ? "" : ", ", printable(name));
  if (names.size() > kShown) out += fmt::format(" and {} more", names.size() - kShown);
  return out;
}

}  // namespace tandem
