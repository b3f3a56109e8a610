// Searches what is held back and the new piece together.
#include "runtime/stop_strings.h"

#include <algorithm>
#include <utility>

namespace tandem {
namespace {

// The length of the longest end of `text` that begins `stop`.
std::size_t overlap(std::string_view text, std::string_view stop) {
  for (std::size_t length = std::min(text.size(), stop.size() - 1); length > 0; --length)
    if (text.ends_with(stop.substr(0, length))) return length;
  return 0;
}

}  // namespace

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase(stops_, std::string());
}

std::string StopStrings::put(std::string_view piece) {
  if (found_) return {};
  held_ += piece;
  std::size_t end = std::string::npos;
  std::size_t kept = 0;
  for (const std::string& stop : stops_) {
    end = std::min(end, held_.find(stop));
    kept = std::max(kept, overlap(held_, stop));
  }
  found_ = end != std::string::npos;
  if (!found_) end = held_.size() - kept;
  std::string certain = held_.substr(0, end);
  held_.erase(0, end);
  return certain;
}

std::string StopStrings::finish() { return found_ ? std::string() : std::exchange(held_, {}); }

}  // namespace tandem
