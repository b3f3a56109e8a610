// Integers that do not fit 64 bits, as Python's have no limit. A Value holds one only if it must,
// so that equal integers are held alike. Functions take any integral value (bool, int).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "text/jinja/ast.h"
#include "text/jinja/value.h"

namespace tandem::jinja {

// Bounds the work of one operation. Python's integers end where memory does.
inline constexpr std::size_t kMaxIntegerBits = std::size_t{1} << 16;
// Python's limit for numbers read from text or printed, whose time grows with its square.
inline constexpr std::size_t kMaxDecimalDigits = 4300;

// Digits in `base` from 2 to 36, with a sign or without; nullopt if it is no number.
std::optional<Value> parse_integer(std::string_view digits, int base);
// Decimal digits with "-" if it is negative.
std::string print_integer(const Value& integer);
// Without a sign, in base 2, 8, 10 or 16 (lower case).
std::string print_magnitude(const Value& integer, int base);

// A finite number without its fraction.
Value truncate_to_integer(double number);
// To the nearest multiple of 10^digits, half to even, as Python's round(integer, -digits).
Value round_integer(const Value& integer, std::int64_t digits);

// Division by zero is the caller's to refuse; "/" gives a float, and so does a negative power.
Value big_binary(BinaryOp op, const Value& a, const Value& b, Budget& budget);
// The quotient of two integers as the nearest float.
double divide_integers(const Value& a, const Value& b);

// -1, 0 or 1.
int compare_integers(const Value& a, const Value& b);
// The same for a number that is not NaN.
int compare_integer(const Value& a, double b);

}  // namespace tandem::jinja
