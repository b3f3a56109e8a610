// Case mapping in whole strings: utf8proc's tables map one character to one; those that become
// several are Unicode's SpecialCasing.txt.
#include "text/jinja/unicode_case.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>

namespace tandem::jinja {
namespace {

struct Special {
  char32_t code;
  std::u32string_view upper;
  std::u32string_view title;
};

// By code.
constexpr auto kSpecial = std::to_array<Special>({
    {0x00DF, U"SS", U"Ss"},
    {0x0149, U"\u02BCN", U"\u02BCN"},
    {0x01F0, U"J\u030C", U"J\u030C"},
    {0x0390, U"\u0399\u0308\u0301", U"\u0399\u0308\u0301"},
    {0x03B0, U"\u03A5\u0308\u0301", U"\u03A5\u0308\u0301"},
    {0x0587, U"\u0535\u0552", U"\u0535\u0582"},
    {0x1E96, U"H\u0331", U"H\u0331"},
    {0x1E97, U"T\u0308", U"T\u0308"},
    {0x1E98, U"W\u030A", U"W\u030A"},
    {0x1E99, U"Y\u030A", U"Y\u030A"},
    {0x1E9A, U"A\u02BE", U"A\u02BE"},
    {0x1F50, U"\u03A5\u0313", U"\u03A5\u0313"},
    {0x1F52, U"\u03A5\u0313\u0300", U"\u03A5\u0313\u0300"},
    {0x1F54, U"\u03A5\u0313\u0301", U"\u03A5\u0313\u0301"},
    {0x1F56, U"\u03A5\u0313\u0342", U"\u03A5\u0313\u0342"},
    {0x1F80, U"\u1F08\u0399", U"\u1F88"},
    {0x1F81, U"\u1F09\u0399", U"\u1F89"},
    {0x1F82, U"\u1F0A\u0399", U"\u1F8A"},
    {0x1F83, U"\u1F0B\u0399", U"\u1F8B"},
    {0x1F84, U"\u1F0C\u0399", U"\u1F8C"},
    {0x1F85, U"\u1F0D\u0399", U"\u1F8D"},
    {0x1F86, U"\u1F0E\u0399", U"\u1F8E"},
    {0x1F87, U"\u1F0F\u0399", U"\u1F8F"},
    {0x1F88, U"\u1F08\u0399", U"\u1F88"},
    {0x1F89, U"\u1F09\u0399", U"\u1F89"},
    {0x1F8A, U"\u1F0A\u0399", U"\u1F8A"},
    {0x1F8B, U"\u1F0B\u0399", U"\u1F8B"},
    {0x1F8C, U"\u1F0C\u0399", U"\u1F8C"},
    {0x1F8D, U"\u1F0D\u0399", U"\u1F8D"},
    {0x1F8E, U"\u1F0E\u0399", U"\u1F8E"},
    {0x1F8F, U"\u1F0F\u0399", U"\u1F8F"},
    {0x1F90, U"\u1F28\u0399", U"\u1F98"},
    {0x1F91, U"\u1F29\u0399", U"\u1F99"},
    {0x1F92, U"\u1F2A\u0399", U"\u1F9A"},
    {0x1F93, U"\u1F2B\u0399", U"\u1F9B"},
    {0x1F94, U"\u1F2C\u0399", U"\u1F9C"},
    {0x1F95, U"\u1F2D\u0399", U"\u1F9D"},
    {0x1F96, U"\u1F2E\u0399", U"\u1F9E"},
    {0x1F97, U"\u1F2F\u0399", U"\u1F9F"},
    {0x1F98, U"\u1F28\u0399", U"\u1F98"},
    {0x1F99, U"\u1F29\u0399", U"\u1F99"},
    {0x1F9A, U"\u1F2A\u0399", U"\u1F9A"},
    {0x1F9B, U"\u1F2B\u0399", U"\u1F9B"},
    {0x1F9C, U"\u1F2C\u0399", U"\u1F9C"},
    {0x1F9D, U"\u1F2D\u0399", U"\u1F9D"},
    {0x1F9E, U"\u1F2E\u0399", U"\u1F9E"},
    {0x1F9F, U"\u1F2F\u0399", U"\u1F9F"},
    {0x1FA0, U"\u1F68\u0399", U"\u1FA8"},
    {0x1FA1, U"\u1F69\u0399", U"\u1FA9"},
    {0x1FA2, U"\u1F6A\u0399", U"\u1FAA"},
    {0x1FA3, U"\u1F6B\u0399", U"\u1FAB"},
    {0x1FA4, U"\u1F6C\u0399", U"\u1FAC"},
    {0x1FA5, U"\u1F6D\u0399", U"\u1FAD"},
    {0x1FA6, U"\u1F6E\u0399", U"\u1FAE"},
    {0x1FA7, U"\u1F6F\u0399", U"\u1FAF"},
    {0x1FA8, U"\u1F68\u0399", U"\u1FA8"},
    {0x1FA9, U"\u1F69\u0399", U"\u1FA9"},
    {0x1FAA, U"\u1F6A\u0399", U"\u1FAA"},
    {0x1FAB, U"\u1F6B\u0399", U"\u1FAB"},
    {0x1FAC, U"\u1F6C\u0399", U"\u1FAC"},
    {0x1FAD, U"\u1F6D\u0399", U"\u1FAD"},
    {0x1FAE, U"\u1F6E\u0399", U"\u1FAE"},
    {0x1FAF, U"\u1F6F\u0399", U"\u1FAF"},
    {0x1FB2, U"\u1FBA\u0399", U"\u1FBA\u0345"},
    {0x1FB3, U"\u0391\u0399", U"\u1FBC"},
    {0x1FB4, U"\u0386\u0399", U"\u0386\u0345"},
    {0x1FB6, U"\u0391\u0342", U"\u0391\u0342"},
    {0x1FB7, U"\u0391\u0342\u0399", U"\u0391\u0342\u0345"},
    {0x1FBC, U"\u0391\u0399", U"\u1FBC"},
    {0x1FC2, U"\u1FCA\u0399", U"\u1FCA\u0345"},
    {0x1FC3, U"\u0397\u0399", U"\u1FCC"},
    {0x1FC4, U"\u0389\u0399", U"\u0389\u0345"},
    {0x1FC6, U"\u0397\u0342", U"\u0397\u0342"},
    {0x1FC7, U"\u0397\u0342\u0399", U"\u0397\u0342\u0345"},
    {0x1FCC, U"\u0397\u0399", U"\u1FCC"},
    {0x1FD2, U"\u0399\u0308\u0300", U"\u0399\u0308\u0300"},
    {0x1FD3, U"\u0399\u0308\u0301", U"\u0399\u0308\u0301"},
    {0x1FD6, U"\u0399\u0342", U"\u0399\u0342"},
    {0x1FD7, U"\u0399\u0308\u0342", U"\u0399\u0308\u0342"},
    {0x1FE2, U"\u03A5\u0308\u0300", U"\u03A5\u0308\u0300"},
    {0x1FE3, U"\u03A5\u0308\u0301", U"\u03A5\u0308\u0301"},
    {0x1FE4, U"\u03A1\u0313", U"\u03A1\u0313"},
    {0x1FE6, U"\u03A5\u0342", U"\u03A5\u0342"},
    {0x1FE7, U"\u03A5\u0308\u0342", U"\u03A5\u0308\u0342"},
    {0x1FF2, U"\u1FFA\u0399", U"\u1FFA\u0345"},
    {0x1FF3, U"\u03A9\u0399", U"\u1FFC"},
    {0x1FF4, U"\u038F\u0399", U"\u038F\u0345"},
    {0x1FF6, U"\u03A9\u0342", U"\u03A9\u0342"},
    {0x1FF7, U"\u03A9\u0342\u0399", U"\u03A9\u0342\u0345"},
    {0x1FFC, U"\u03A9\u0399", U"\u1FFC"},
    {0xFB00, U"FF", U"Ff"},
    {0xFB01, U"FI", U"Fi"},
    {0xFB02, U"FL", U"Fl"},
    {0xFB03, U"FFI", U"Ffi"},
    {0xFB04, U"FFL", U"Ffl"},
    {0xFB05, U"ST", U"St"},
    {0xFB06, U"ST", U"St"},
    {0xFB13, U"\u0544\u0546", U"\u0544\u0576"},
    {0xFB14, U"\u0544\u0535", U"\u0544\u0565"},
    {0xFB15, U"\u0544\u053B", U"\u0544\u056B"},
    {0xFB16, U"\u054E\u0546", U"\u054E\u0576"},
    {0xFB17, U"\u0544\u053D", U"\u0544\u056D"},
});

struct Range {
  char32_t first;
  char32_t last;
};

// Letters, numbers and symbols that have a case without its category: Other_Lowercase and
// Other_Uppercase.
constexpr auto kOtherLower = std::to_array<Range>(
    {{0xAA, 0xAA},       {0xBA, 0xBA},       {0x2B0, 0x2B8},     {0x2C0, 0x2C1},
     {0x2E0, 0x2E4},     {0x345, 0x345},     {0x37A, 0x37A},     {0x1D2C, 0x1D6A},
     {0x1D78, 0x1D78},   {0x1D9B, 0x1DBF},   {0x2071, 0x2071},   {0x207F, 0x207F},
     {0x2090, 0x209C},   {0x2170, 0x217F},   {0x24D0, 0x24E9},   {0x2C7C, 0x2C7D},
     {0xA69C, 0xA69D},   {0xA770, 0xA770},   {0xA7F8, 0xA7F9},   {0xAB5C, 0xAB5F},
     {0x10780, 0x10780}, {0x10783, 0x10785}, {0x10787, 0x107B0}, {0x107B2, 0x107BA}});
constexpr auto kOtherUpper = std::to_array<Range>({{0x2160, 0x216F},
                                                   {0x24B6, 0x24CF},
                                                   {0x1F130, 0x1F149},
                                                   {0x1F150, 0x1F169},
                                                   {0x1F170, 0x1F189}});
// Punctuation that may be inside a word, such as the apostrophe.
constexpr auto kInsideWords = std::to_array<Range>({{0x27, 0x27},
                                                    {0x2E, 0x2E},
                                                    {0x3A, 0x3A},
                                                    {0xB7, 0xB7},
                                                    {0x387, 0x387},
                                                    {0x55F, 0x55F},
                                                    {0x5F4, 0x5F4},
                                                    {0x2018, 0x2019},
                                                    {0x2024, 0x2024},
                                                    {0x2027, 0x2027},
                                                    {0xFE13, 0xFE13},
                                                    {0xFE52, 0xFE52},
                                                    {0xFE55, 0xFE55},
                                                    {0xFF07, 0xFF07},
                                                    {0xFF0E, 0xFF0E},
                                                    {0xFF1A, 0xFF1A}});

constexpr char32_t kCapitalSigma = 0x3A3;
constexpr char32_t kSmallSigma = 0x3C3;
constexpr char32_t kFinalSigma = 0x3C2;
constexpr char32_t kCapitalDottedI = 0x130;

template <std::size_t kCount>
bool is_in(const std::array<Range, kCount>& ranges, char32_t code) {
  return std::ranges::any_of(
      ranges, [&](const Range& range) { return range.first <= code && code <= range.last; });
}

utf8proc_int32_t plain(char32_t code) { return static_cast<utf8proc_int32_t>(code); }

bool is_cased(char32_t code) { return is_upper(code) || is_lower(code) || is_title(code); }

bool is_case_ignorable(char32_t code) {
  switch (utf8proc_category(plain(code))) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      return is_in(kInsideWords, code);
  }
}

// Whether the sigma at [begin, end) ends a word.
bool is_final(std::string_view text, std::size_t begin, std::size_t end) {
  char32_t before = ' ';
  while (begin > 0) {
    const CodePoint c = decode_before(text, begin);
    begin -= c.size;
    before = c.code;
    if (!is_case_ignorable(before)) break;
  }
  if (!is_cased(before)) return false;
  while (end < text.size()) {
    const CodePoint c = decode_at(text, end);
    if (!is_case_ignorable(c.code)) return !is_cased(c.code);
    end += c.size;
  }
  return true;
}

const Special* find_special(char32_t code) {
  const auto found = std::ranges::lower_bound(kSpecial, code, {}, &Special::code);
  return found != kSpecial.end() && found->code == code ? &*found : nullptr;
}

void append(std::string& out, std::u32string_view codes) {
  for (const char32_t code : codes) append_utf8(out, code);
}

void append_upper(std::string& out, char32_t code) {
  if (const Special* special = find_special(code)) return append(out, special->upper);
  append_utf8(out, static_cast<char32_t>(utf8proc_toupper(plain(code))));
}

void append_title(std::string& out, char32_t code) {
  if (const Special* special = find_special(code)) return append(out, special->title);
  append_utf8(out, static_cast<char32_t>(utf8proc_totitle(plain(code))));
}

// The character `c` at `at` of `text`.
void append_lower(std::string& out, std::string_view text, std::size_t at, const CodePoint& c) {
  if (c.code == kCapitalSigma)
    return append_utf8(out, is_final(text, at, at + c.size) ? kFinalSigma : kSmallSigma);
  if (c.code == kCapitalDottedI) return append(out, U"i\u0307");
  append_utf8(out, static_cast<char32_t>(utf8proc_tolower(plain(c.code))));
}

// Calls `map(out, at, character)` for each character; one that is not UTF-8 is kept.
template <typename Map>
std::string map_each(std::string_view text, Map map) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint c = decode_at(text, at);
    if (c.code < 0x80 || c.size > 1)
      map(out, at, c);
    else
      out.append(text.substr(at, c.size));
    at += c.size;
  }
  return out;
}

}  // namespace

bool is_upper(char32_t code) noexcept {
  return utf8proc_category(plain(code)) == UTF8PROC_CATEGORY_LU || is_in(kOtherUpper, code);
}

bool is_lower(char32_t code) noexcept {
  return utf8proc_category(plain(code)) == UTF8PROC_CATEGORY_LL || is_in(kOtherLower, code);
}

bool is_title(char32_t code) noexcept {
  return utf8proc_category(plain(code)) == UTF8PROC_CATEGORY_LT;
}

std::string to_upper(std::string_view text) {
  return map_each(
      text, [](std::string& out, std::size_t, const CodePoint& c) { append_upper(out, c.code); });
}

std::string to_lower(std::string_view text) {
  return map_each(text, [&](std::string& out, std::size_t at, const CodePoint& c) {
    append_lower(out, text, at, c);
  });
}

std::string to_title(std::string_view text) {
  bool inside = false;
  return map_each(text, [&](std::string& out, std::size_t at, const CodePoint& c) {
    if (inside)
      append_lower(out, text, at, c);
    else
      append_title(out, c.code);
    inside = is_cased(c.code);
  });
}

std::string to_capitalized(std::string_view text) {
  return map_each(text, [&](std::string& out, std::size_t at, const CodePoint& c) {
    if (at == 0)
      append_title(out, c.code);
    else
      append_lower(out, text, at, c);
  });
}

std::string swap_case(std::string_view text) {
  return map_each(text, [&](std::string& out, std::size_t at, const CodePoint& c) {
    if (is_upper(c.code))
      append_lower(out, text, at, c);
    else if (is_lower(c.code))
      append_upper(out, c.code);
    else
      append_utf8(out, c.code);
  });
}

std::string fold_case(std::string_view text) {
  return map_each(text, [](std::string& out, std::size_t, const CodePoint& c) {
    utf8proc_int32_t codes[8];
    int boundary = 0;
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(plain(c.code), codes, 8, UTF8PROC_CASEFOLD, &boundary);
    for (utf8proc_ssize_t i = 0; i < std::min<utf8proc_ssize_t>(count, 8); ++i)
      append_utf8(out, static_cast<char32_t>(codes[i]));
  });
}

}  // namespace tandem::jinja
