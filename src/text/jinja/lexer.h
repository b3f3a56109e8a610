// From template text to tokens: text outside tags, with Jinja's whitespace control already applied,
// and the contents of tags.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::jinja {

// A position in a template; lines and characters are counted from 1.
struct Place {
  std::uint32_t line = 1;
  std::uint32_t column = 1;
};

enum class TokenKind {
  // Text outside tags.
  kData,
  // "{{".
  kVariableBegin,
  kVariableEnd,
  // "{%".
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  // For data, names and operators their text; for strings their value with escapes resolved; for
  // integers their digits in `base`.
  std::string text;
  int base = 10;
  double number = 0;
  Place place;
};

// The tokens of a template under trim_blocks and lstrip_blocks, as transformers sets them; the last
// one is kEnd. `name` is used in errors. Throws kFormat.
std::vector<Token> tokenize(std::string_view source, std::string_view name);

// A token's description in error messages.
std::string describe(const Token& token);

}  // namespace tandem::jinja
