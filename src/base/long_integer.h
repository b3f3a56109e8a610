// Numbers that the JSON library does not have. Integers beyond 64 bits, which it rounds to floats,
// are kept as text of a type that JSON files cannot contain where every digit counts.
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

// Zeros that no program writes and that stand for numbers that JSON does not have.
inline constexpr std::string_view kNanSpelling = "0.0e-7001";
inline constexpr std::string_view kInfinitySpelling = "0.0e-7002";

// Parses text that is known to be valid JSON, keeping long integers and reading those zeros as what
// they stand for.
OrderedJson parse_with_long_integers(std::string_view text);

}  // namespace tandem
