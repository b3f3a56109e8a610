// UTF-8 by code point, and the character classes that Python's str methods use.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace tandem::jinja {

struct CodePoint {
  // U+FFFD for a byte that does not start a valid sequence.
  char32_t code;
  // In bytes, at least 1.
  std::size_t size;
};

CodePoint decode_at(std::string_view text, std::size_t position) noexcept;
// The code point that ends at `end`, which must be greater than 0.
CodePoint decode_before(std::string_view text, std::size_t end) noexcept;
void append_utf8(std::string& text, char32_t code);

std::size_t count_code_points(std::string_view text) noexcept;
// Byte offset of code point `index`; the size of the text if it has fewer.
std::size_t offset_of(std::string_view text, std::size_t index) noexcept;

bool is_space(char32_t code) noexcept;
bool is_alpha(char32_t code) noexcept;
// Category Nd.
bool is_decimal(char32_t code) noexcept;
// Of a decimal digit of any script, 0 to 9.
int decimal_value(char32_t code) noexcept;
// Any number, such as a fraction.
bool is_numeric(char32_t code) noexcept;

}  // namespace tandem::jinja
