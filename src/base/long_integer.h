// Integers beyond 64 bits in JSON. The JSON library has none and rounds them to floats; where every
// digit counts they are kept as text of a type that JSON files cannot contain.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"

namespace tandem {

// Decimal digits, with "-" if negative.
OrderedJson long_integer(std::string_view digits);
// The digits of such a value; nullopt for any other.
std::optional<std::string> long_integer_digits(const OrderedJson& value);

// Parses text that is known to be valid JSON, keeping long integers.
OrderedJson parse_with_long_integers(std::string_view text);

}  // namespace tandem
