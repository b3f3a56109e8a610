// UTF-8 for the tokenizer: iteration, validation, repair, and character classes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "text/tokenizer/text_span.h"

namespace tandem {

enum class Utf8State : std::uint8_t {
  kValid,
  // The first `length` bytes are the longest prefix that could have started a character.
  kInvalid,
  // The text ends inside a character that is well-formed so far.
  kIncomplete,
};

struct Utf8Step {
  // Meaningful only for kValid.
  char32_t code = 0;
  std::uint8_t length = 0;
  Utf8State state = Utf8State::kInvalid;
};

// Decodes the first character of `text`, which must not be empty.
Utf8Step utf8_step(std::string_view text) noexcept;

bool is_valid_utf8(std::string_view text) noexcept;

// Replaces each malformed part by one U+FFFD (the "maximal subpart" practice of the Unicode
// standard, as in Rust's from_utf8_lossy and therefore the Hugging Face library).
std::string replace_invalid_utf8(std::string_view text);

// The character at text[at] of valid UTF-8; advances `at` past it.
char32_t next_character(std::string_view text, std::size_t& at) noexcept;

// The start of the character that ends at text[end]; `end` > 0, valid UTF-8.
std::size_t previous_boundary(std::string_view text, std::size_t end) noexcept;

void append_utf8(char32_t code, std::string& out);

// The property White_Space, which is what \s means in the reference's regular expressions.
bool is_white_space(char32_t code) noexcept;

// The start of the white space at the end of text[0, end), but not before `from`.
std::size_t skip_white_space_back(std::string_view text, std::size_t from, std::size_t end);
// The end of the white space that begins at text[at].
std::size_t skip_white_space(std::string_view text, std::size_t at);

// The reference's \w: Alphabetic, marks, decimal digits, connector punctuation, join controls.
bool is_word_character(char32_t code) noexcept;

// ASCII punctuation including symbols, and categories P*.
bool is_punctuation(char32_t code) noexcept;
// Categories N*, including fractions.
bool is_numeric(char32_t code) noexcept;
// Categories M*.
bool is_mark(char32_t code) noexcept;

// Appends the character in lower case to `out`; two characters for U+0130.
void append_lower(char32_t code, std::string& out);

// Converts a stream of bytes in chunks to valid UTF-8; the result does not depend on the chunk
// boundaries.
class LossyUtf8 {
 public:
  void put(std::string_view bytes, std::string& out);
  // An incomplete character becomes U+FFFD.
  void finish(std::string& out);

 private:
  // At most 3 bytes between calls.
  std::string pending_;
};

}  // namespace tandem
