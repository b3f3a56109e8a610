// Keeps the marks of a Text correct when it is cut and joined.
#include "text/jinja/text.h"

#include <algorithm>
#include <utility>

namespace tandem::jinja {

Text::Text(std::string bytes, bool from_chat) : bytes_(std::move(bytes)) {
  if (from_chat) mark(0, bytes_.size());
}

void Text::mark(std::size_t begin, std::size_t end) {
  if (begin == end) return;
  if (!from_chat_.empty() && from_chat_.back().end == begin)
    from_chat_.back().end = end;
  else
    from_chat_.push_back({begin, end});
}

Text Text::slice(std::size_t begin, std::size_t end) const {
  Text result;
  result.append(*this, begin, end);
  return result;
}

void Text::append(const Text& other, std::size_t begin, std::size_t end) {
  const std::size_t start = bytes_.size();
  bytes_.append(other.bytes_, begin, end - begin);
  auto span =
      std::lower_bound(other.from_chat_.begin(), other.from_chat_.end(), begin,
                       [](const TextSpan& s, std::size_t position) { return s.end <= position; });
  for (; span != other.from_chat_.end() && span->begin < end; ++span)
    mark(start + std::max(span->begin, begin) - begin, start + std::min(span->end, end) - begin);
}

Text Text::derived(const Text& source, std::string bytes) {
  return Text(std::move(bytes), source.any_from_chat());
}

}  // namespace tandem::jinja
