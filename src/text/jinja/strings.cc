// Operations on strings, by character and with Python's definition of white space.
#include "text/jinja/strings.h"

#include <algorithm>

#include "text/jinja/unicode.h"
#include "text/jinja/unicode_case.h"

namespace tandem::jinja {
namespace {

// "é" is in "aé" but not in the bytes of "è".
bool has_character(const Text& set, std::string_view character) {
  for (std::size_t i = 0; i < set.size();) {
    const CodePoint c = decode_at(set.bytes(), i);
    if (std::string_view(set.bytes()).substr(i, c.size) == character) return true;
    i += c.size;
  }
  return false;
}

bool is_line_end(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

}  // namespace

Text strip(const Text& text, const Text* chars, Side side) {
  const std::string& bytes = text.bytes();
  const auto goes = [&](std::size_t at, const CodePoint& c) {
    if (chars == nullptr) return is_space(c.code);
    return has_character(*chars, std::string_view(bytes).substr(at, c.size));
  };
  std::size_t begin = 0;
  std::size_t end = bytes.size();
  while (side != Side::kRight && begin < end) {
    const CodePoint c = decode_at(bytes, begin);
    if (!goes(begin, c)) break;
    begin += c.size;
  }
  while (side != Side::kLeft && begin < end) {
    const CodePoint c = decode_before(bytes, end);
    if (!goes(end - c.size, c)) break;
    end -= c.size;
  }
  return text.slice(begin, end);
}

Text replace(const Text& text, const Text& old, const Text& by, std::int64_t count,
             Budget& budget) {
  const std::string& bytes = text.bytes();
  budget.spend_bytes(bytes.size());
  Text result;
  std::size_t done = 0;
  const auto put = [&] {
    if (result.size() + by.size() > kMaxTextBytes)
      fail_here("a text of more than {} bytes", kMaxTextBytes);
    budget.spend_bytes(by.size());
    result.append(by);
    --count;
  };
  if (old.empty()) {  // before each character and at the end
    while (count != 0) {
      put();
      if (done == bytes.size()) break;
      const std::size_t next = done + decode_at(bytes, done).size;
      result.append(text, done, next);
      done = next;
    }
  } else {
    while (count != 0) {
      const std::size_t found = bytes.find(old.bytes(), done);
      if (found == std::string::npos) break;
      result.append(text, done, found);
      put();
      done = found + old.size();
    }
  }
  result.append(text, done, bytes.size());
  return result;
}

Text title(const Text& text) { return Text::derived(text, to_title(text.bytes())); }

Text capitalize(const Text& text) { return Text::derived(text, to_capitalized(text.bytes())); }

std::vector<Text> split_lines(const Text& text, bool keep_ends, Budget& budget) {
  const std::string& bytes = text.bytes();
  budget.spend_bytes(bytes.size());
  std::vector<Text> result;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < bytes.size();) {
    const CodePoint c = decode_at(bytes, i);
    const std::size_t end = i;
    i += c.size;
    if (!is_line_end(c.code)) continue;
    if (c.code == '\r' && i < bytes.size() && bytes[i] == '\n') ++i;
    budget.spend(kBytesPerWork);
    result.push_back(text.slice(begin, keep_ends ? i : end));
    begin = i;
  }
  if (begin < bytes.size()) result.push_back(text.slice(begin, bytes.size()));
  return result;
}

Text pad(const Text& text, std::int64_t width, std::string_view fill, Side side, Budget& budget) {
  const auto size = static_cast<std::int64_t>(count_code_points(text.bytes()));
  if (width <= size) return text;
  const std::int64_t padding = width - size;
  if (padding > static_cast<std::int64_t>(kMaxTextBytes / fill.size()))
    fail_here("a text of {} characters", width);
  budget.spend_text(text.size() + static_cast<std::size_t>(padding) * fill.size());
  // Like Python, puts the odd one before the text if the width is odd as well.
  const std::int64_t before = side == Side::kLeft    ? padding
                              : side == Side::kRight ? 0
                                                     : padding / 2 + (padding & width & 1);
  Text result;
  for (std::int64_t i = 0; i < before; ++i) result.append(fill);
  result.append(text);
  for (std::int64_t i = before; i < padding; ++i) result.append(fill);
  return result;
}

Text join(const std::vector<Text>& parts, const Text& separator, Budget& budget) {
  Text result;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (result.size() + separator.size() + parts[i].size() > kMaxTextBytes)
      fail_here("a text of more than {} bytes", kMaxTextBytes);
    budget.spend_bytes(separator.size() + parts[i].size());
    if (i != 0) result.append(separator);
    result.append(parts[i]);
  }
  return result;
}

}  // namespace tandem::jinja
