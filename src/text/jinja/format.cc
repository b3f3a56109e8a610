// Format strings: a field of either kind becomes a Spec, which one function formats.
#include "text/jinja/format.h"

#include <charconv>
#include <cmath>

#include "text/jinja/big_integer.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/unicode.h"

namespace tandem::jinja {
namespace {

constexpr int kMaxWidth = 10000;
constexpr int kMaxPrecision = 300;

struct Spec {
  std::string fill = " ";
  // '<' '>' '^' '='; 0: depends on the type.
  char align = 0;
  // '+' and ' ' show a sign for positive numbers too.
  char sign = '-';
  bool alternate = false;
  // Thousands separated by commas.
  bool group = false;
  int width = 0;
  int precision = -1;
  char type = 0;
};

// Reads a number from the front of `text`; -1 if there is none.
int take_number(std::string_view& text, int limit) {
  int value = -1;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || text.front() < '0' || text.front() > '9') return -1;
  if (result.ec != std::errc{} || value > limit)
    fail_here("width or precision of a format exceeds {}", limit);
  text.remove_prefix(static_cast<std::size_t>(result.ptr - text.data()));
  return value;
}

void group_thousands(std::string& digits) {
  const std::size_t end = std::min(digits.find_first_not_of("0123456789"), digits.size());
  for (std::size_t i = end; i > 3;) {
    i -= 3;
    digits.insert(i, ",");
  }
}

// fmt's "e" and "g" match Python's output.
std::string float_digits(double number, const Spec& spec) {
  const int precision = spec.precision < 0 ? 6 : spec.precision;
  const double size = std::abs(number);
  if (std::isnan(size)) return "nan";
  if (std::isinf(size)) return "inf";
  switch (spec.type) {
    case 'e':
      return fmt::format("{:.{}e}", size, precision);
    case 'E':
      return fmt::format("{:.{}E}", size, precision);
    case 'g':
    case 'G':
      return fmt::format("{:.{}g}", size, precision);
    case '%':
      return fmt::format("{:.{}f}%", size * 100, precision);
    case 0:
      return spec.precision < 0 ? print_float(size) : fmt::format("{:.{}g}", size, precision);
    default:
      return fmt::format("{:.{}f}", size, precision);
  }
}

std::string integer_digits(const Value& number, const Spec& spec) {
  const char kind = static_cast<char>(spec.type | 0x20);
  const int base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 10;
  std::string digits = print_magnitude(number, base);
  if (spec.type == 'X')
    for (char& c : digits) c = c >= 'a' ? static_cast<char>(c - 0x20) : c;
  if (spec.alternate && base != 10) digits.insert(0, {'0', spec.type});
  return digits;
}

void append_padded(Text& out, const Spec& spec, const std::string& sign, const Text& body,
                   char align) {
  const std::size_t size = count_code_points(sign) + count_code_points(body.bytes());
  const auto width = static_cast<std::size_t>(spec.width);
  const std::size_t padding = width > size ? width - size : 0;
  const std::size_t before = align == '>' || align == '=' ? padding
                             : align == '^'               ? padding / 2
                                                          : 0;
  if (align == '=') out.append(sign);
  for (std::size_t i = 0; i < before; ++i) out.append(spec.fill);
  if (align != '=') out.append(sign);
  out.append(body);
  for (std::size_t i = before; i < padding; ++i) out.append(spec.fill);
}

void append_number(Text& out, const Spec& spec, const Value& value) {
  const std::string_view integer_types = "dixXobu";
  std::string digits;
  bool negative;
  if (spec.type != 0 && integer_types.find(spec.type) != std::string_view::npos) {
    if (value.is_float() && !std::isfinite(value.number()))
      fail_here("{} is no number for '%{}'", print_float(value.number()), spec.type);
    const Value number = value.is_float() ? truncate_to_integer(value.number()) : value;
    negative = number.integer() < 0;
    digits = integer_digits(number, spec);
  } else if (value.is_float() || spec.type != 0) {
    negative = std::signbit(value.number());
    digits = float_digits(value.number(), spec);
  } else {
    negative = value.integer() < 0;
    digits = integer_digits(value, spec);
  }
  if (spec.group) group_thousands(digits);
  const std::string sign = negative ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign);
  append_padded(out, spec, sign, Text(std::move(digits)), spec.align == 0 ? '>' : spec.align);
}

void append_text(Text& out, const Spec& spec, Text body, char align) {
  if (spec.precision >= 0)
    body = body.slice(0, offset_of(body.bytes(), static_cast<std::size_t>(spec.precision)));
  append_padded(out, spec, "", body, spec.align == 0 ? align : spec.align);
}

// ------------------------------------------------------------ '%'

Spec take_percent_spec(std::string_view& rest) {
  Spec spec;
  for (; !rest.empty(); rest.remove_prefix(1)) {
    const char c = rest.front();
    if (c == '-') {
      spec.align = '<';
    } else if (c == '0' && spec.align != '<') {
      spec.fill = "0";
      spec.align = '=';
    } else if (c == '+' || (c == ' ' && spec.sign == '-')) {
      spec.sign = c;
    } else if (c == '#') {
      spec.alternate = true;
    } else if (c != '0' && c != ' ') {
      break;
    }
  }
  if (spec.align == '<') spec.fill = " ";
  spec.width = std::max(0, take_number(rest, kMaxWidth));
  if (!rest.empty() && rest.front() == '.') {
    rest.remove_prefix(1);
    spec.precision = std::max(0, take_number(rest, kMaxPrecision));
  }
  if (rest.empty()) fail_here("incomplete format");
  spec.type = rest.front();
  rest.remove_prefix(1);
  return spec;
}

// Of "%c": an integer is the code of a character.
Text character_of(const Value& value, Runtime& runtime) {
  if (value.is_int() || value.is_bool()) {
    constexpr std::int64_t kHighest = 0x10FFFF;
    const std::int64_t code = value.integer();
    if (code < 0 || code > kHighest) fail_here("%c needs a code below 0x110000, got {}", code);
    std::string bytes;
    append_utf8(bytes, static_cast<char32_t>(code));
    return Text(std::move(bytes));
  }
  if (value.is_text() && count_code_points(value.text().bytes()) == 1)
    return print(value, runtime.budget());
  fail_here("%c needs a character or its code, got {}", value.type_name());
}

void append_percent(Runtime& runtime, Text& out, Spec spec, const Value& value) {
  switch (spec.type) {
    case 's':
    case 'r':
      if (spec.align == '=') spec.align = '>', spec.fill = " ";
      append_text(
          out, spec,
          spec.type == 's' ? print(value, runtime.budget()) : print_repr(value, runtime.budget()),
          '>');
      return;
    case 'c':
      append_text(out, spec, character_of(value, runtime), '>');
      return;
    default:
      break;
  }
  if (std::string_view("diuxXoeEfFgG").find(spec.type) == std::string_view::npos)
    fail_here("unsupported format character '{}'", spec.type);
  if (value.is_undefined()) fail_here("{}", value.undefined_message());
  if (!value.is_number())
    fail_here("%{} format: a number is required, not {}", spec.type, value.type_name());
  append_number(out, spec, value);
}

// ------------------------------------------------------------ '{}'

Spec parse_brace_spec(std::string_view rest) {
  Spec spec;
  if (rest.empty()) return spec;
  const std::size_t first = decode_at(rest, 0).size;
  const auto is_align = [&](std::size_t at) {
    return at < rest.size() && std::string_view("<>^=").find(rest[at]) != std::string_view::npos;
  };
  if (is_align(first)) {
    spec.fill = std::string(rest.substr(0, first));
    spec.align = rest[first];
    rest.remove_prefix(first + 1);
  } else if (is_align(0)) {
    spec.align = rest.front();
    rest.remove_prefix(1);
  }
  const auto take = [&](std::string_view any) -> char {
    if (rest.empty() || any.find(rest.front()) == std::string_view::npos) return 0;
    const char c = rest.front();
    rest.remove_prefix(1);
    return c;
  };
  if (const char sign = take("+- ")) spec.sign = sign;
  spec.alternate = take("#") != 0;
  if (take("0") != 0 && spec.align == 0) {
    spec.fill = "0";
    spec.align = '=';
  }
  spec.width = std::max(0, take_number(rest, kMaxWidth));
  spec.group = take(",") != 0;
  if (take(".") != 0) {
    spec.precision = take_number(rest, kMaxPrecision);
    if (spec.precision < 0) fail_here("format specifier is missing its precision");
  }
  spec.type = take("sdbxXoeEfFgG%");
  if (!rest.empty()) fail_here("invalid format specifier");
  return spec;
}

// Looks up "name.attribute[item]" of a field; by position if the name is empty or a number.
Value find_field(Runtime& runtime, std::string_view name, const Arguments& arguments,
                 std::size_t& automatic) {
  const std::size_t end = std::min(name.find_first_of(".["), name.size());
  const std::string_view base = name.substr(0, end);
  std::string_view path = name.substr(end);
  Value value;
  if (base.empty() || (base.front() >= '0' && base.front() <= '9')) {
    std::string_view digits = base;
    const std::size_t index =
        base.empty() ? automatic++ : static_cast<std::size_t>(take_number(digits, kMaxWidth));
    if (index >= arguments.positional.size()) fail_here("format() has no argument {}", index);
    value = arguments.positional[index];
  } else {
    bool found = false;
    for (const auto& [key, named] : arguments.named) {
      if (key != base) continue;
      value = named;
      found = true;
    }
    if (!found) fail_here("format() has no argument '{}'", base);
  }
  while (!path.empty()) {
    const bool is_item = path.front() == '[';
    const std::size_t stop =
        is_item ? path.find(']') : std::min(path.find_first_of(".[", 1), path.size());
    if (stop == std::string_view::npos) fail_here("expected ']' in a format field");
    const std::string_view key = path.substr(1, stop - 1);
    std::string_view digits = key;
    const int index = is_item ? take_number(digits, kMaxWidth) : -1;
    if (!is_item)
      value = get_attribute(runtime, value, key);
    else
      value = get_item(runtime, value,
                       index >= 0 && digits.empty() ? Value(std::int64_t{index}) : Value(key));
    path.remove_prefix(is_item ? stop + 1 : stop);
  }
  return value;
}

}  // namespace

Value format_percent(Runtime& runtime, const Text& pattern, const Arguments& arguments) {
  const std::string& bytes = pattern.bytes();
  runtime.budget().spend_bytes(bytes.size());
  Text out;
  std::size_t used = 0;
  bool by_name = !arguments.named.empty();
  for (std::size_t i = 0; i < bytes.size();) {
    const std::size_t percent = std::min(bytes.find('%', i), bytes.size());
    out.append(pattern, i, percent);
    if (percent == bytes.size()) break;
    std::string_view rest = std::string_view(bytes).substr(percent + 1);
    Value named;
    bool has_name = false;
    if (!rest.empty() && rest.front() == '(') {
      const std::size_t close = rest.find(')');
      if (close == std::string_view::npos) fail_here("incomplete format key");
      const std::string_view key = rest.substr(1, close - 1);
      has_name = true;
      by_name = true;
      named = Value::undefined(fmt::format("the format has no value named '{}'", key));
      for (const auto& [name, value] : arguments.named)
        if (name == key) named = value;
      if (!arguments.positional.empty() && arguments.positional[0].is_dict())
        if (const Value* value = arguments.positional[0].dict().find(key)) named = *value;
      if (named.is_undefined()) fail_here("{}", named.undefined_message());
      rest.remove_prefix(close + 1);
    }
    const Spec spec = take_percent_spec(rest);
    if (spec.type == '%') {
      out.append("%");
    } else {
      if (!has_name && used >= arguments.positional.size())
        fail_here("not enough arguments for format string");
      append_percent(runtime, out, spec, has_name ? named : arguments.positional[used++]);
      runtime.budget().spend_text(out.size());
    }
    i = bytes.size() - rest.size();
  }
  if (!by_name && used < arguments.positional.size() && !arguments.positional[used].is_dict())
    fail_here("not all arguments converted during string formatting");
  return runtime.text(std::move(out));
}

Value format_braces(Runtime& runtime, const Text& pattern, const Arguments& arguments) {
  const std::string& bytes = pattern.bytes();
  runtime.budget().spend_bytes(bytes.size());
  Text out;
  std::size_t automatic = 0;
  for (std::size_t i = 0; i < bytes.size();) {
    const std::size_t brace = std::min(bytes.find_first_of("{}", i), bytes.size());
    out.append(pattern, i, brace);
    if (brace == bytes.size()) break;
    if (brace + 1 < bytes.size() && bytes[brace + 1] == bytes[brace]) {
      out.append(pattern, brace, brace + 1);
      i = brace + 2;
      continue;
    }
    const std::size_t close = bytes.find('}', brace);
    if (bytes[brace] == '}' || close == std::string::npos)
      fail_here("single '{}' in format string", bytes[brace]);
    const std::string_view field = std::string_view(bytes).substr(brace + 1, close - brace - 1);
    const std::size_t colon = std::min(field.find(':'), field.size());
    std::string_view name = field.substr(0, colon);
    const bool as_repr = name.size() >= 2 && name.substr(name.size() - 2) == "!r";
    const bool as_text = name.size() >= 2 && name.substr(name.size() - 2) == "!s";
    if (as_repr || as_text) name.remove_suffix(2);
    const Value value = find_field(runtime, name, arguments, automatic);
    const Spec spec =
        parse_brace_spec(colon < field.size() ? field.substr(colon + 1) : std::string_view());
    if (as_repr)
      append_text(out, spec, print_repr(value, runtime.budget()), '<');
    else if (value.is_number() && !value.is_bool() && !as_text)
      append_number(out, spec, value);
    else
      append_text(out, spec, print(value, runtime.budget()), '<');
    runtime.budget().spend_text(out.size());
    i = close + 1;
  }
  return runtime.text(std::move(out));
}

}  // namespace tandem::jinja
