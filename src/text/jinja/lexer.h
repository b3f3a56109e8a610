// Template text to tokens: text between tags with Jinja's whitespace control already applied, and
// what is in the tags.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::jinja {

// Where something stands in a template, counted from 1 in lines and characters.
struct Place {
  std::uint32_t line = 1;
  std::uint32_t column = 1;
};

enum class TokenKind {
  kData,           // text outside tags
  kVariableBegin,  // {{
  kVariableEnd,
  kBlockBegin,  // {%
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
  std::string text;  // data, name, operator, or the string's value with escapes resolved
  std::int64_t integer = 0;
  double number = 0;
  Place place;
};

// Tokens of a template under trim_blocks and lstrip_blocks, as transformers sets them; the last is
// kEnd. `name` appears in errors. Throws kFormat.
std::vector<Token> tokenize(std::string_view source, std::string_view name);

// A token as it is called in an error.
std::string describe(const Token& token);

}  // namespace tandem::jinja
