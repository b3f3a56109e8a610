// Upper, lower and title case as Python's str methods give them: a character may become several
// ("ß" in upper case is "SS"), and a sigma at the end of a word differs. A byte that is not UTF-8
// stays.
#pragma once

#include <string>
#include <string_view>

#include "text/jinja/unicode.h"

namespace tandem::jinja {

// The derived properties Uppercase and Lowercase, such as of "Ⅷ"; titlecase letters such as "ǅ"
// are neither.
bool is_upper(char32_t code) noexcept;
bool is_lower(char32_t code) noexcept;
bool is_title(char32_t code) noexcept;

std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
// A word is a run of letters that have a case.
std::string to_title(std::string_view text);
// The first character in title case, the rest in lower case.
std::string to_capitalized(std::string_view text);
std::string swap_case(std::string_view text);
// For comparing regardless of case.
std::string fold_case(std::string_view text);

}  // namespace tandem::jinja
