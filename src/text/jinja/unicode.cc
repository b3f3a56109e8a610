// Code points and their classes; the tables are utf8proc's.
#include "text/jinja/unicode.h"

#include <utf8proc.h>

#include <cstdint>

namespace tandem::jinja {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

utf8proc_category_t category(char32_t code) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code));
}

}  // namespace

CodePoint decode_at(std::string_view text, std::size_t position) noexcept {
  const auto first = static_cast<unsigned char>(text[position]);
  if (first < 0x80) return {first, 1};
  utf8proc_int32_t code = -1;
  const utf8proc_ssize_t size =
      utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + position),
                       static_cast<utf8proc_ssize_t>(text.size() - position), &code);
  if (size <= 0 || code < 0) return {kReplacement, 1};
  return {static_cast<char32_t>(code), static_cast<std::size_t>(size)};
}

CodePoint decode_before(std::string_view text, std::size_t end) noexcept {
  std::size_t begin = end - 1;
  while (begin > 0 && end - begin < 4 && is_continuation(text[begin])) --begin;
  const CodePoint c = decode_at(text.substr(0, end), begin);
  if (begin + c.size == end) return c;
  return {kReplacement, 1};
}

void append_utf8(std::string& text, char32_t code) {
  utf8proc_uint8_t bytes[4];
  if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) code = kReplacement;
  const auto size = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code), bytes);
  text.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size));
}

std::size_t count_code_points(std::string_view text) noexcept {
  std::size_t count = 0;
  for (std::size_t i = 0; i < text.size(); ++count) i += decode_at(text, i).size;
  return count;
}

std::size_t offset_of(std::string_view text, std::size_t index) noexcept {
  std::size_t i = 0;
  for (; index > 0 && i < text.size(); --index) i += decode_at(text, i).size;
  return i;
}

bool is_space(char32_t code) noexcept {
  if (code < 0x80)
    return code == ' ' || (code >= 0x09 && code <= 0x0D) || (code >= 0x1C && code <= 0x1F);
  return code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) ||
         code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

bool is_alpha(char32_t code) noexcept {
  const auto c = category(code);
  return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

bool is_decimal(char32_t code) noexcept { return category(code) == UTF8PROC_CATEGORY_ND; }

// The digits of a script follow each other from zero, and so may those of several scripts.
int decimal_value(char32_t code) noexcept {
  char32_t before = 0;
  while (before < code && is_decimal(code - before - 1)) ++before;
  return static_cast<int>(before % 10);
}

bool is_numeric(char32_t code) noexcept {
  const auto c = category(code);
  return c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO;
}

}  // namespace tandem::jinja
