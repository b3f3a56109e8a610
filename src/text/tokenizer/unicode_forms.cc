// Uses utf8proc's tables, but its own sort: utf8proc's reordering of marks takes quadratic time on
// hostile text.
#include "text/tokenizer/unicode_forms.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "text/tokenizer/unicode.h"

namespace tandem {
namespace {

// No character below has a combining class or is the second of a composition, so NFC leaves text of
// such characters alone.
constexpr char32_t kFirstMark = 0x300;

int combining_class(utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; }

// Sorts by combining class, stably.
void order_marks(std::span<utf8proc_int32_t> codes) {
  if (codes.size() < 2) return;
  // Class, position and character of a mark packed into one number: 8, 32 and 21 bits.
  std::vector<std::uint64_t> keys;
  keys.reserve(codes.size());
  for (const utf8proc_int32_t code : codes) {
    keys.push_back(static_cast<std::uint64_t>(combining_class(code)) << 53 |
                   static_cast<std::uint64_t>(keys.size()) << 21 |
                   static_cast<std::uint64_t>(code));
  }
  std::sort(keys.begin(), keys.end());
  for (std::size_t i = 0; i < codes.size(); ++i) {
    codes[i] = static_cast<utf8proc_int32_t>(keys[i] & 0x1FFFFF);
  }
}

void decompose(std::string_view text, int options, std::vector<utf8proc_int32_t>& codes) {
  // The length of U+FDFA in NFKD.
  constexpr std::size_t kLongest = 18;
  for (std::size_t at = 0; at < text.size();) {
    const auto code = static_cast<utf8proc_int32_t>(next_character(text, at));
    const std::size_t size = codes.size();
    codes.resize(size + kLongest);
    int boundary = 0;
    auto count = utf8proc_decompose_char(code, codes.data() + size, kLongest,
                                         static_cast<utf8proc_option_t>(options), &boundary);
    if (count < 0 || static_cast<std::size_t>(count) > kLongest) {
      codes[size] = code;
      count = 1;
    }
    codes.resize(size + static_cast<std::size_t>(count));
  }
  // Marks after one base character are sorted by combining class, stably.
  for (std::size_t i = 0; i < codes.size();) {
    if (combining_class(codes[i]) == 0) {
      ++i;
      continue;
    }
    std::size_t end = i + 1;
    while (end < codes.size() && combining_class(codes[end]) != 0) ++end;
    order_marks(std::span(codes).subspan(i, end - i));
    i = end;
  }
}

void append_normalized(std::string_view text, UnicodeForm form,
                       std::vector<utf8proc_int32_t>& codes, std::string& out) {
  const bool composes = form == UnicodeForm::kNfc || form == UnicodeForm::kNfkc;
  const bool compatible = form == UnicodeForm::kNfkc || form == UnicodeForm::kNfkd;
  codes.clear();
  decompose(text, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0), codes);
  auto count = static_cast<utf8proc_ssize_t>(codes.size());
  if (composes) {
    count = utf8proc_normalize_utf32(
        codes.data(), count, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  }
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    append_utf8(static_cast<char32_t>(codes[static_cast<std::size_t>(i)]), out);
  }
}

bool is_ascii(char c) { return static_cast<unsigned char>(c) < 0x80; }

// NFC affects only characters from U+0300 and the ones before them.
void normalize_nfc(std::string& text) {
  std::string out;
  std::vector<utf8proc_int32_t> codes;
  // Input that is already in `out`.
  std::size_t done = 0;
  // Start of the character before `at`.
  std::size_t previous = 0;
  for (std::size_t at = 0; at < text.size();) {
    if (is_ascii(text[at])) {
      previous = at++;
      continue;
    }
    std::size_t next = at;
    if (next_character(text, next) < kFirstMark) {
      previous = at;
      at = next;
      continue;
    }
    std::size_t end = next;
    while (end < text.size()) {
      next = end;
      if (next_character(text, next) < kFirstMark) break;
      end = next;
    }
    out.append(text, done, previous - done);
    append_normalized(std::string_view(text).substr(previous, end - previous), UnicodeForm::kNfc,
                      codes, out);
    done = previous = at = end;
  }
  if (done == 0) return;
  out.append(text, done);
  text = std::move(out);
}

}  // namespace

void normalize_unicode(std::string& text, UnicodeForm form) {
  if (form == UnicodeForm::kNfc) return normalize_nfc(text);
  if (std::all_of(text.begin(), text.end(), is_ascii)) return;
  std::string out;
  std::vector<utf8proc_int32_t> codes;
  append_normalized(text, form, codes, out);
  text = std::move(out);
}

}  // namespace tandem
