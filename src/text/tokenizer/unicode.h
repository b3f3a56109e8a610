// UTF-8 as the tokenizer needs it: stepping, checking, repairing, and classes of characters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "text/tokenizer/text_span.h"

namespace tandem {

enum class Utf8State : std::uint8_t {
  kValid,
  kInvalid,     // `length` bytes are the longest part that could have begun a character
  kIncomplete,  // the text ends inside a character that is well formed so far
};

struct Utf8Step {
  char32_t code = 0;  // meaningful if kValid
  std::uint8_t length = 0;
  Utf8State state = Utf8State::kInvalid;
};

// The first character of `text`, which must not be empty.
Utf8Step utf8_step(std::string_view text) noexcept;

bool is_valid_utf8(std::string_view text) noexcept;

// Each malformed part becomes one U+FFFD (the "maximal subpart" practice of the Unicode standard,
// which Rust's from_utf8_lossy follows and with it the Hugging Face library).
std::string replace_invalid_utf8(std::string_view text);

// The character at text[at] of valid UTF-8; moves `at` behind it.
char32_t next_character(std::string_view text, std::size_t& at) noexcept;

// Where the character that ends at text[end] begins; `end` > 0, valid UTF-8.
std::size_t previous_boundary(std::string_view text, std::size_t end) noexcept;

void append_utf8(char32_t code, std::string& out);

// The property White_Space, which \s means in the reference's regular expressions.
bool is_white_space(char32_t code) noexcept;

// Where the white space at the end of text[0, end) begins, but not before `from`.
std::size_t skip_white_space_back(std::string_view text, std::size_t from, std::size_t end);
// Behind the white space that begins at text[at].
std::size_t skip_white_space(std::string_view text, std::size_t at);

// \w of the reference: Alphabetic, marks, decimal digits, connector punctuation, join controls.
bool is_word_character(char32_t code) noexcept;

bool is_punctuation(char32_t code) noexcept;  // ASCII's, its symbols included, and categories P*
bool is_numeric(char32_t code) noexcept;      // categories N*, such as fractions
bool is_mark(char32_t code) noexcept;         // categories M*

// The character's lower case, at the end of `out`; two characters for U+0130.
void append_lower(char32_t code, std::string& out);

// Turns bytes that arrive in any cuts into valid UTF-8; the result does not depend on the cuts.
class LossyUtf8 {
 public:
  void put(std::string_view bytes, std::string& out);
  void finish(std::string& out);  // an incomplete character becomes U+FFFD

 private:
  std::string pending_;  // at most 3 bytes between calls
};

}  // namespace tandem
