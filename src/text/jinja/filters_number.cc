// Filters that produce numbers, and the one for missing values.
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "text/jinja/big_integer.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/runtime.h"
#include "text/jinja/strings.h"
#include "text/jinja/unicode.h"

namespace tandem::jinja {
namespace {

// Enough for any number; a longer string is not a number.
constexpr std::size_t kMaxNumberText = kMaxDecimalDigits + 100;

// With the decimal digits of every script as "0" to "9".
std::string with_ascii_digits(std::string_view bytes) {
  std::string result;
  for (std::size_t at = 0; at < bytes.size();) {
    const CodePoint c = decode_at(bytes, at);
    if (c.code >= 0x80 && is_decimal(c.code)) {
      result += static_cast<char>('0' + decimal_value(c.code));
    } else {
      result += bytes.substr(at, c.size);
    }
    at += c.size;
  }
  return result;
}

// A number as accepted by Python's int() and float(): surrounding white space and single
// underscores between digits are allowed.
std::optional<std::string> number_text(const Text& text) {
  const std::string bytes = with_ascii_digits(strip(text, nullptr, Side::kBoth).bytes());
  if (bytes.empty() || bytes.size() > kMaxNumberText) return std::nullopt;
  std::string result;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] != '_') {
      result += bytes[i];
      continue;
    }
    const auto is_digit = [&](std::size_t at) {
      return at < bytes.size() && std::isxdigit(static_cast<unsigned char>(bytes[at])) != 0;
    };
    if (i == 0 || !is_digit(i - 1) || !is_digit(i + 1)) return std::nullopt;
  }
  return result;
}

std::optional<double> parse_float(const Text& text) {
  auto digits = number_text(text);
  if (!digits) return std::nullopt;
  const char* begin = digits->data();
  const char* end = begin + digits->size();
  if (*begin == '+') ++begin;
  if (begin != end && digits->data() != begin && *begin == '-') return std::nullopt;
  double number = 0;
  const auto result = std::from_chars(begin, end, number);
  if (result.ptr != end || result.ec == std::errc::invalid_argument) return std::nullopt;
  // Infinite, or too small for a float.
  if (result.ec == std::errc::result_out_of_range) return std::strtod(begin, nullptr);
  return number;
}

// Python's int(text, base).
std::optional<Value> integer_of(const Text& text, int base) {
  const auto digits = number_text(text);
  if (!digits) return std::nullopt;
  std::string_view rest = *digits;
  std::string signless;
  if (rest.front() == '+' || rest.front() == '-') {
    if (rest.front() == '-') signless = "-";
    rest.remove_prefix(1);
  }
  if (rest.size() > 2 && rest[0] == '0') {
    const char kind = static_cast<char>(rest[1] | 0x20);
    if ((base == 16 && kind == 'x') || (base == 8 && kind == 'o') || (base == 2 && kind == 'b'))
      rest.remove_prefix(2);
  }
  if (rest.empty() || rest.front() == '-' || rest.front() == '+') return std::nullopt;
  if (rest.size() > kMaxDecimalDigits) return std::nullopt;
  return parse_integer(signless + std::string(rest), base);
}

std::optional<Value> truncated(double number) {
  if (!std::isfinite(number)) return std::nullopt;
  return truncate_to_integer(number);
}

Value filter_int(const Call& call) {
  const Value& value = call[0];
  const Value fallback = call.has(1) ? call[1] : Value(std::int64_t{0});
  if (value.is_undefined()) fail_here("{}", value.undefined_message());
  std::optional<Value> number;
  if (value.is_int()) {
    number = value;
  } else if (value.is_bool()) {
    number = Value(value.integer());
  } else if (value.is_float()) {
    number = truncated(value.number());
  } else if (value.is_text()) {
    const std::int64_t base = call.integer(2, 10);
    if (base < 2 || base > 36) fail_here("int() needs a base in [2, 36], got {}", base);
    number = integer_of(value.text(), static_cast<int>(base));
    if (!number)
      if (const auto real = parse_float(value.text())) number = truncated(*real);
  }
  return number ? *number : fallback;
}

Value filter_float(const Call& call) {
  const Value& value = call[0];
  if (value.is_undefined()) fail_here("{}", value.undefined_message());
  if (value.is_number()) return Value(value.number());
  if (value.is_text())
    if (const auto number = parse_float(value.text())) return Value(*number);
  return call.has(1) ? call[1] : Value(0.0);
}

const Value& number_of(const Call& call) {
  const Value& value = call[0];
  if (value.is_undefined()) fail_here("{}", value.undefined_message());
  if (!value.is_number())
    fail_here("{}() needs a number, got '{}'", call.function(), value.type_name());
  return value;
}

Value filter_abs(const Call& call) {
  const Value& value = number_of(call);
  if (value.is_float()) return Value(std::abs(value.number()));
  if (value.integer() < 0) return negate(value, call.budget());
  return value.is_bool() ? Value(value.integer()) : value;
}

// "common" rounds as Python's round(): to the nearest decimal, ties to even.
Value filter_round(const Call& call) {
  const Value& value = number_of(call);
  const std::int64_t precision = call.integer(1, 0);
  const std::string method = call.has(2) ? call.string(2).bytes() : "common";
  if (method != "common" && method != "ceil" && method != "floor")
    fail_here("round() knows common, ceil and floor, got '{}'", method);
  if (precision < -300 || precision > 300)
    fail_here("round() needs a precision within 300, got {}", precision);
  if (method == "common" && value.is_integral()) {
    if (precision < 0) return round_integer(value, -precision);
    return value.is_bool() ? Value(value.integer()) : value;
  }
  const double number = value.number();
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (method == "ceil") return Value(std::ceil(number * scale) / scale);
  if (method == "floor") return Value(std::floor(number * scale) / scale);
  if (!std::isfinite(number)) return value;
  if (precision < 0) return Value(std::nearbyint(number * scale) / scale);
  // Printing rounds the exact value, as Python does.
  const std::string text = fmt::format("{:.{}f}", number, precision);
  double rounded = 0;
  std::from_chars(text.data(), text.data() + text.size(), rounded);
  return Value(rounded);
}

Value filter_default(const Call& call) {
  const Value& value = call[0];
  const bool missing = value.is_undefined() || (call.flag(2, false) && !is_true(value));
  if (!missing) return value;
  return call.has(1) ? call[1] : Value(Text());
}

Value filter_length(const Call& call) {
  if (call[0].is_text()) call.budget().spend_bytes(call[0].text().size());
  return Value(static_cast<std::int64_t>(length(call[0])));
}

constexpr auto kFilters = std::to_array<Builtin>({
    {"int", "value default? base?", filter_int},
    {"float", "value default?", filter_float},
    {"abs", "x", filter_abs},
    {"round", "value precision? method?", filter_round},
    {"length", "obj", filter_length},
    {"count", "obj", filter_length},
    {"default", "value default_value? boolean?", filter_default},
    {"d", "value default_value? boolean?", filter_default},
});

}  // namespace

std::span<const Builtin> number_filters() { return kFilters; }

}  // namespace tandem::jinja
