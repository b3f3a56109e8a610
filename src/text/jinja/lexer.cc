// The lexer. Text between tags follows Jinja 3.1's rules for "-", "+", trim_blocks and
// lstrip_blocks.
#include "text/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <utility>

#include "base/error.h"
#include "text/jinja/unicode.h"

namespace tandem::jinja {
namespace {

// Real templates stay under 64 KiB.
constexpr std::size_t kMaxSourceBytes = std::size_t{4} << 20;

// Longest first, so that the first match is the right one.
constexpr std::array<std::string_view, 26> kOperators = {
    "//", "**", "==", "!=", "<=", ">=", "+", "-", "/", "*", "%", "~", "[",
    "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};

bool is_name_start(char32_t c) { return c == '_' || is_alpha(c); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

// "\r\n" and "\r" become "\n", and one newline at the end is dropped, as Jinja does.
std::string normalize_newlines(std::string_view source) {
  std::string result;
  result.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      result += source[i];
    } else {
      result += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (!result.empty() && result.back() == '\n') result.pop_back();
  return result;
}

class Lexer {
 public:
  Lexer(std::string_view source, std::string_view name)
      : source_(normalize_newlines(source)), name_(name) {}

  std::vector<Token> run() {
    while (position_ < source_.size()) lex_data();
    add(TokenKind::kEnd, {}, position_);
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail_at(std::size_t position, const std::string& what) {
    const Place place = place_of(position);
    fail(ErrorCode::kFormat, "[chat template] {}:{}:{}: {}", name_, place.line, place.column, what);
  }

  // Except for errors, positions are requested in ascending order, so lines are counted only once.
  Place place_of(std::size_t position) {
    if (position < counted_) {
      counted_ = 0;
      counted_place_ = {};
    }
    for (; counted_ < position; ++counted_) {
      const auto byte = static_cast<unsigned char>(source_[counted_]);
      if (byte == '\n') {
        ++counted_place_.line;
        counted_place_.column = 1;
      } else if ((byte & 0xC0) != 0x80) {
        ++counted_place_.column;
      }
    }
    return counted_place_;
  }

  Token& add(TokenKind kind, std::string text, std::size_t position) {
    tokens_.push_back({kind, std::move(text), 10, 0, place_of(position)});
    return tokens_.back();
  }

  bool starts(std::string_view what) const {
    return std::string_view(source_).substr(position_, what.size()) == what;
  }

  void skip_space() {
    while (position_ < source_.size()) {
      const CodePoint c = decode_at(source_, position_);
      if (!is_space(c.code)) return;
      position_ += c.size;
    }
  }

  // The end of the text before a tag whose sign is '-', '+' or 0.
  std::size_t data_end(std::size_t begin, std::size_t tag, char sign, bool is_variable) const {
    std::size_t end = tag;
    if (sign == '-') {
      while (end > begin) {
        const CodePoint c = decode_before(source_, end);
        if (!is_space(c.code)) break;
        end -= c.size;
      }
    } else if (sign != '+' && !is_variable) {
      // lstrip_blocks: a tag that is first on its line removes the spaces before it.
      while (end > begin && source_[end - 1] != '\n') {
        const CodePoint c = decode_before(source_, end);
        if (!is_space(c.code)) return tag;
        end -= c.size;
      }
      if (end == begin && begin > 0 && source_[begin - 1] != '\n') return tag;
    }
    return end;
  }

  // Lexes text up to the next tag, then the tag.
  void lex_data() {
    const std::size_t begin = position_;
    std::size_t tag = begin;
    while (true) {
      tag = source_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= source_.size()) {
        add(TokenKind::kData, source_.substr(begin), begin);
        position_ = source_.size();
        return;
      }
      const char kind = source_[tag + 1];
      if (kind == '{' || kind == '%' || kind == '#') break;
      ++tag;
    }
    const char kind = source_[tag + 1];
    position_ = tag + 2;
    const char sign =
        position_ < source_.size() && (source_[position_] == '-' || source_[position_] == '+')
            ? source_[position_]
            : '\0';
    if (sign != '\0') ++position_;
    const std::size_t end = data_end(begin, tag, sign, kind == '{');
    if (end > begin) add(TokenKind::kData, source_.substr(begin, end - begin), begin);
    if (kind == '#') {
      skip_comment(tag);
    } else if (kind == '{') {
      add(TokenKind::kVariableBegin, "{{", tag);
      lex_tag(tag, "}}", TokenKind::kVariableEnd);
    } else if (!lex_raw(tag)) {
      add(TokenKind::kBlockBegin, "{%", tag);
      lex_tag(tag, "%}", TokenKind::kBlockEnd);
    }
  }

  // Skips to after the end of a block or comment that starts at position_: "-%}" removes all white
  // space after it, "%}" one newline.
  bool skip_block_end(std::string_view end) {
    const bool minus = starts("-");
    const bool plus = starts("+");
    const std::size_t sign = minus || plus ? 1 : 0;
    if (std::string_view(source_).substr(position_ + sign, end.size()) != end) return false;
    position_ += sign + end.size();
    if (minus)
      skip_space();
    else if (!plus && starts("\n"))
      ++position_;
    return true;
  }

  void skip_comment(std::size_t tag) {
    const std::size_t close = source_.find("#}", position_);
    if (close == std::string::npos) fail_at(tag, "comment has no end, expected '#}'");
    const bool signed_end =
        close > position_ && (source_[close - 1] == '-' || source_[close - 1] == '+');
    position_ = signed_end ? close - 1 : close;
    skip_block_end("#}");
  }

  // Lexes "{% raw %} … {% endraw %}" as text; false if the block at position_ is not a raw block.
  bool lex_raw(std::size_t tag) {
    const std::size_t start = position_;
    skip_space();
    if (!starts("raw")) return position_ = start, false;
    position_ += 3;
    skip_space();
    if (starts("-%}")) {
      position_ += 3;
      skip_space();
    } else if (starts("%}")) {
      position_ += 2;
    } else {
      return position_ = start, false;
    }
    const std::size_t begin = position_;
    for (std::size_t at = source_.find("{%", begin); at != std::string::npos;
         at = source_.find("{%", at + 1)) {
      position_ = at + 2;
      const char sign = starts("-") ? '-' : starts("+") ? '+' : '\0';
      if (sign != '\0') ++position_;
      skip_space();
      if (!starts("endraw")) continue;
      position_ += 6;
      skip_space();
      if (!skip_block_end("%}")) continue;
      const std::size_t end = data_end(begin, at, sign, false);
      if (end > begin) add(TokenKind::kData, source_.substr(begin, end - begin), begin);
      return true;
    }
    fail_at(tag, "raw block has no end, expected '{% endraw %}'");
  }

  // Lexes the inside of a tag. Within brackets "}}" and "%}" are operators.
  void lex_tag(std::size_t tag, std::string_view end, TokenKind end_kind) {
    std::vector<std::pair<char, std::size_t>> open;
    while (true) {
      if (position_ >= source_.size())
        fail_at(tag, fmt::format("tag has no end, expected '{}'", end));
      const std::size_t start = position_;
      if (open.empty() && is_tag_end(end)) {
        add(end_kind, std::string(end), start);
        return;
      }
      const CodePoint c = decode_at(source_, position_);
      if (is_space(c.code)) {
        position_ += c.size;
      } else if (is_name_start(c.code)) {
        lex_name();
      } else if (c.code == '\'' || c.code == '"') {
        lex_string();
      } else if (c.code < 0x80 && is_digit(source_[position_])) {
        lex_number();
      } else {
        lex_operator(open);
      }
    }
  }

  bool is_tag_end(std::string_view end) {
    if (end == "%}") return skip_block_end(end);
    if (starts("-}}")) {
      position_ += 3;
      skip_space();
      return true;
    }
    if (!starts("}}")) return false;
    position_ += 2;
    return true;
  }

  void lex_name() {
    const std::size_t start = position_;
    while (position_ < source_.size()) {
      const CodePoint c = decode_at(source_, position_);
      if (!is_name_start(c.code) && !is_decimal(c.code)) break;
      position_ += c.size;
    }
    add(TokenKind::kName, source_.substr(start, position_ - start), start);
  }

  void lex_operator(std::vector<std::pair<char, std::size_t>>& open) {
    const auto found = std::find_if(kOperators.begin(), kOperators.end(),
                                    [&](std::string_view op) { return starts(op); });
    if (found == kOperators.end()) {
      const CodePoint c = decode_at(source_, position_);
      fail_at(position_,
              fmt::format("unexpected character '{}'", source_.substr(position_, c.size)));
    }
    const char c = found->front();
    if (c == '(' || c == '[' || c == '{') {
      open.emplace_back(c == '(' ? ')' : c == '[' ? ']' : '}', position_);
    } else if (c == ')' || c == ']' || c == '}') {
      if (open.empty()) fail_at(position_, fmt::format("unexpected '{}'", c));
      if (open.back().first != c)
        fail_at(position_, fmt::format("unexpected '{}', expected '{}'", c, open.back().first));
      open.pop_back();
    }
    add(TokenKind::kOperator, std::string(*found), position_);
    position_ += found->size();
  }

  // Digits of `base` with single underscores between them, without the underscores.
  std::string digits(int base) {
    std::string result;
    while (position_ < source_.size()) {
      char c = source_[position_];
      if (c == '_' && position_ + 1 < source_.size()) c = source_[position_ + 1];
      const char lower = static_cast<char>(c | 0x20);
      const int value = is_digit(c)                    ? c - '0'
                        : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10
                                                       : 99;
      if (value >= base) break;
      position_ += source_[position_] == '_' ? 2 : 1;
      result += c;
    }
    return result;
  }

  void lex_number() {
    const std::size_t start = position_;
    int base = 10;
    if (source_[start] == '0' && start + 1 < source_.size()) {
      const char kind = static_cast<char>(source_[start + 1] | 0x20);
      base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 10;
    }
    if (base != 10) position_ += 2;
    std::string text = digits(base);
    // "a.0.1" is two subscripts, not a float.
    const bool after_dot = start > 0 && source_[start - 1] == '.';
    bool is_float = false;
    if (base == 10 && !after_dot) {
      if (starts(".") && position_ + 1 < source_.size() && is_digit(source_[position_ + 1])) {
        ++position_;
        text += '.' + digits(10);
        is_float = true;
      }
      if (const std::string exponent = lex_exponent(); !exponent.empty()) {
        text += exponent;
        is_float = true;
      }
    }
    if (is_float) {
      Token& token = add(TokenKind::kFloat, text, start);
      const auto result = std::from_chars(text.data(), text.data() + text.size(), token.number);
      if (result.ec != std::errc{}) fail_at(start, fmt::format("number {} is out of range", text));
      return;
    }
    if (text.empty())
      fail_at(start, fmt::format("'{}' is no integer", source_.substr(start, position_ - start)));
    add(TokenKind::kInteger, text, start).base = base;
  }

  // "e+5", or "" if there is no exponent at position_.
  std::string lex_exponent() {
    if (!starts("e") && !starts("E")) return {};
    std::size_t at = position_ + 1;
    std::string result = "e";
    if (at < source_.size() && (source_[at] == '+' || source_[at] == '-')) result += source_[at++];
    if (at >= source_.size() || !is_digit(source_[at])) return {};
    position_ = at;
    return result + digits(10);
  }

  void lex_string() {
    const std::size_t start = position_;
    const char quote = source_[position_++];
    std::string value;
    while (true) {
      if (position_ >= source_.size())
        fail_at(start, fmt::format("string has no end, expected {}", quote));
      const char c = source_[position_++];
      if (c == quote) break;
      if (c != '\\')
        value += c;
      else
        lex_escape(start, value);
    }
    add(TokenKind::kString, std::move(value), start);
  }

  // The character after a backslash, as in a Python string; an unknown escape stands for itself.
  void lex_escape(std::size_t start, std::string& value) {
    if (position_ >= source_.size()) fail_at(start, "string has no end");
    const char c = source_[position_++];
    switch (c) {
      case '\n':
        return;
      case 'n':
        value += '\n';
        return;
      case 't':
        value += '\t';
        return;
      case 'r':
        value += '\r';
        return;
      case 'a':
        value += '\a';
        return;
      case 'b':
        value += '\b';
        return;
      case 'f':
        value += '\f';
        return;
      case 'v':
        value += '\v';
        return;
      case '\\':
      case '\'':
      case '"':
        value += c;
        return;
      case 'x':
        return append_utf8(value, hex_escape(2));
      case 'u':
        return append_utf8(value, unicode_escape());
      case 'U':
        return append_utf8(value, hex_escape(8));
      default:
        break;
    }
    if (c < '0' || c > '7') {
      value += '\\';
      value += c;
      return;
    }
    char32_t code = static_cast<char32_t>(c - '0');
    for (int i = 0; i < 2 && position_ < source_.size(); ++i) {
      const char digit = source_[position_];
      if (digit < '0' || digit > '7') break;
      code = code * 8 + static_cast<char32_t>(digit - '0');
      ++position_;
    }
    append_utf8(value, code);
  }

  char32_t hex_escape(std::size_t count) {
    const std::string_view text = std::string_view(source_).substr(position_, count);
    std::uint32_t code = 0;
    const auto result = std::from_chars(text.data(), text.data() + text.size(), code, 16);
    if (text.size() < count || result.ec != std::errc{} || result.ptr != text.data() + count ||
        code > 0x10FFFF)
      fail_at(position_, fmt::format("expected {} hexadecimal digits of a character", count));
    position_ += count;
    return code;
  }

  // A surrogate pair is one character.
  char32_t unicode_escape() {
    const char32_t high = hex_escape(4);
    if (high < 0xD800 || high > 0xDBFF || !starts("\\u")) return high;
    const std::size_t back = position_;
    position_ += 2;
    const char32_t low = hex_escape(4);
    if (low >= 0xDC00 && low <= 0xDFFF) return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
    position_ = back;
    return high;
  }

  std::string source_;
  std::string_view name_;
  std::size_t position_ = 0;
  std::vector<Token> tokens_;
  // counted_place_ is the position of this byte.
  std::size_t counted_ = 0;
  Place counted_place_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source, std::string_view name) {
  if (source.size() > kMaxSourceBytes)
    fail(ErrorCode::kFormat, "[chat template] {}: {} bytes, expected at most {}", name,
         source.size(), kMaxSourceBytes);
  return Lexer(source, name).run();
}

std::string describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kEnd:
      return "the end of the template";
    case TokenKind::kData:
      return "text";
    case TokenKind::kString:
      return "a string";
    default:
      return "'" + token.text + "'";
  }
}

}  // namespace tandem::jinja
