// A single pass over the expression; its only state is whether it is inside a bracketed set.
#include "text/tokenizer/regex_dialect.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/error.h"

namespace tandem {
namespace {

// Oniguruma's \w; PCRE2's excludes marks, letter-like numbers and most connectors.
constexpr std::string_view kWord = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
constexpr std::string_view kHexDigit = "0-9a-fA-F";

// True for the name of a script. PCRE2 knows them, and since version 10.40 the prefix.
bool is_script(std::string_view name) {
  const std::string expression = "\\p{sc:" + std::string(name) + "}";
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                    PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
  pcre2_code_free(code);
  return code != nullptr;
}

class Translator {
 public:
  Translator(std::string_view source, std::string_view place) : source_(source), place_(place) {}

  std::string run() {
    while (at_ < source_.size()) {
      if (source_[at_] == '\\') {
        escape();
      } else if (in_set_) {
        set_character();
      } else {
        plain_character();
      }
    }
    return std::move(out_);
  }

 private:
  char peek(std::size_t ahead) const {
    return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0';
  }

  void copy(std::size_t count) {
    out_.append(source_.substr(at_, count));
    at_ += std::min(count, source_.size() - at_);
  }

  [[noreturn]] void unsupported(std::string_view what) const {
    fail(ErrorCode::kUnsupported,
         "[tokenizer] {}: {} at byte {} of the regular expression is not supported", place_, what,
         at_);
  }

  void replace(std::size_t count, std::string_view text) {
    out_.append(text);
    at_ += count;
  }

  // A class that may be inside a set or on its own.
  void replace_class(std::string_view members) {
    replace(2, in_set_ ? std::string(members) : "[" + std::string(members) + "]");
  }

  void replace_negated_class(std::string_view members) {
    if (in_set_) unsupported("a negated class inside a set");
    replace(2, "[^" + std::string(members) + "]");
  }

  void escape() {
    // PCRE2's \s under UCP also matches U+180E; the White_Space property does not include it.
    switch (peek(1)) {
      case 's':
        return replace(2, "\\p{White_Space}");
      case 'S':
        return replace(2, "\\P{White_Space}");
      case 'd':
        return replace(2, "\\p{Nd}");
      case 'D':
        return replace(2, "\\P{Nd}");
      case 'w':
        return replace_class(kWord);
      case 'W':
        return replace_negated_class(kWord);
      case 'h':
        return replace_class(kHexDigit);
      case 'H':
        return replace_negated_class(kHexDigit);
      case 'u':
        return unicode_escape();
      case 'p':
      case 'P':
        return property();
      case 'Q':
      case 'E':
        unsupported("quoting with \\Q or \\E");
      default:
        copy(escape_length());
    }
  }

  // Includes the name or number in braces, as in \p{Lu} and \x{1F600}.
  std::size_t escape_length() const {
    if (peek(2) != '{') return 2;
    const std::size_t end = source_.find('}', at_ + 3);
    return end == std::string_view::npos ? 2 : end + 1 - at_;
  }

  // A script's name means its characters; PCRE2's also includes those that it shares with others,
  // such as the full stop of Chinese, unless the prefix says otherwise.
  void property() {
    const std::size_t size = escape_length();
    const std::string_view escape = source_.substr(at_, size);
    if (escape.size() < 5 || escape[2] != '{') return copy(size);
    std::string_view name = escape.substr(3, escape.size() - 4);
    const std::string_view negation = name.substr(0, name.front() == '^' ? 1 : 0);
    name.remove_prefix(negation.size());
    if (!is_script(name)) return copy(size);
    out_.append(escape.substr(0, 3)).append(negation).append("sc:").append(name).append("}");
    at_ += size;
  }

  void unicode_escape() {
    const std::string_view digits = source_.substr(at_ + 2, 4);
    if (digits.size() < 4 ||
        digits.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos) {
      fail(ErrorCode::kFormat,
           "[tokenizer] {}: expected four hexadecimal digits after \\u at byte {} of the regular "
           "expression",
           place_, at_);
    }
    replace(6, "\\x{" + std::string(digits) + "}");
  }

  void set_character() {
    const char c = source_[at_];
    if (c == ']' && at_ != first_in_set_) {
      in_set_ = false;
      copy(1);
    } else if (c == '[' && peek(1) == ':') {
      named_class();
    } else if (c == '[') {
      unsupported("a set inside a set");
    } else if (c == '&' && peek(1) == '&') {
      unsupported("an intersection of sets");
    } else {
      copy(1);
    }
  }

  // [:alpha:] within a set. Classes not handled here mean the same in both, or are rejected by
  // PCRE2.
  void named_class() {
    const std::size_t end = source_.find(":]", at_ + 2);
    if (end == std::string_view::npos) unsupported("a set inside a set");
    const std::string_view name = source_.substr(at_ + 2, end - at_ - 2);
    const std::size_t size = end + 2 - at_;
    if (name == "alpha") return replace(size, "\\p{Alphabetic}");
    if (name == "^alpha") return replace(size, "\\P{Alphabetic}");
    if (name == "space") return replace(size, "\\p{White_Space}");
    if (name == "^space") return replace(size, "\\P{White_Space}");
    if (name == "upper") return replace(size, "\\p{Uppercase}");
    if (name == "lower") return replace(size, "\\p{Lowercase}");
    if (name == "alnum") return replace(size, "\\p{Alphabetic}\\p{Nd}");
    if (name == "punct") return replace(size, "\\p{P}\\p{S}");
    if (name == "word") return replace(size, kWord);
    copy(size);
  }

  void plain_character() {
    switch (source_[at_]) {
      case '[':
        in_set_ = true;
        copy(peek(1) == '^' ? 2 : 1);
        first_in_set_ = at_;
        return;
      case '(':
        return group();
      case '}':
        // "{2}+" repeats the repetition in Ruby's syntax, but prevents backtracking in Perl's.
        if (peek(1) == '+') unsupported("\"+\" behind an interval");
        return copy(1);
      default:
        return copy(1);
    }
  }

  // "(?m" lets the dot match line breaks in Ruby's syntax; the Perl equivalent is "(?s".
  void group() {
    if (peek(1) == '*') unsupported("\"(*\"");
    if (peek(1) != '?') return copy(1);
    std::size_t end = at_ + 2;
    while (end < source_.size() && (source_[end] == '-' || source_[end] == 'i' ||
                                    source_[end] == 'm' || source_[end] == 'x')) {
      ++end;
    }
    const bool options =
        end > at_ + 2 && end < source_.size() && (source_[end] == ':' || source_[end] == ')');
    if (!options) return copy(2);
    for (; at_ < end; ++at_) out_.push_back(source_[at_] == 'm' ? 's' : source_[at_]);
  }

  std::string_view source_;
  std::string_view place_;
  std::string out_;
  std::size_t at_ = 0;
  // A "]" at this position is a member, in both dialects.
  std::size_t first_in_set_ = 0;
  bool in_set_ = false;
};

}  // namespace

std::string to_pcre2(std::string_view oniguruma, std::string_view place) {
  return Translator(oniguruma, place).run();
}

}  // namespace tandem
