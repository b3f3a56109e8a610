// str() and repr().
#include "text/jinja/print.h"

#include <charconv>
#include <cmath>

#include "text/jinja/big_integer.h"
#include "text/jinja/unicode.h"

namespace tandem::jinja {
namespace {

class Printer {
 public:
  explicit Printer(Budget& budget) : budget_(budget) {}

  void repr(const Value& value) {
    budget_.spend();
    if (out_.size() > kMaxTextBytes) fail_here("a text of more than {} bytes", kMaxTextBytes);
    if (value.is_text())
      quoted(value.text());
    else if (value.is_list())
      list(value.list());
    else if (value.is_dict())
      dict(value.dict());
    else
      scalar(value);
  }

  void scalar(const Value& value) {
    if (value.is_undefined())
      out_.append("Undefined");
    else if (value.is_none())
      out_.append("None");
    else if (value.is_bool())
      out_.append(value.boolean() ? "True" : "False");
    else if (value.is_int())
      out_.append(print_integer(value));
    else if (value.is_float())
      out_.append(print_float(value.number()));
    else
      out_.append(value.object().repr());
  }

  Text take() {
    budget_.spend_text(out_.size());
    return std::move(out_);
  }

 private:
  void list(const List& list) {
    out_.append(list.is_tuple ? "(" : "[");
    for (std::size_t i = 0; i < list.items.size(); ++i) {
      if (i != 0) out_.append(", ");
      repr(list.items[i]);
    }
    if (list.is_tuple && list.items.size() == 1) out_.append(",");
    out_.append(list.is_tuple ? ")" : "]");
  }

  void dict(const Dict& dict) {
    out_.append("{");
    bool first = true;
    for (const auto& [key, value] : dict.entries()) {
      if (!first) out_.append(", ");
      first = false;
      repr(key);
      out_.append(": ");
      repr(value);
    }
    out_.append("}");
  }

  // In single quotes, unless the text contains them and no double quotes.
  void quoted(const Text& text) {
    const std::string& bytes = text.bytes();
    budget_.spend_text(bytes.size());
    const bool single =
        bytes.find('\'') == std::string::npos || bytes.find('"') != std::string::npos;
    const char quote = single ? '\'' : '"';
    std::string result;
    for (std::size_t i = 0; i < bytes.size();) {
      const CodePoint c = decode_at(bytes, i);
      if (c.code == static_cast<char32_t>(quote) || c.code == '\\')
        (result += '\\') += static_cast<char>(c.code);
      else if (c.code == '\n')
        result += "\\n";
      else if (c.code == '\r')
        result += "\\r";
      else if (c.code == '\t')
        result += "\\t";
      else if (c.code < 0x20 || c.code == 0x7F || (c.code >= 0x80 && c.code < 0xA1) ||
               c.code == 0xAD)
        result += fmt::format("\\x{:02x}", static_cast<unsigned>(c.code));
      else if (c.code > 0x7F && is_space(c.code))
        result += fmt::format("\\u{:04x}", static_cast<unsigned>(c.code));
      else
        result.append(bytes, i, c.size);
      i += c.size;
    }
    const std::string_view mark(&quote, 1);
    out_.append(mark);
    out_.append(Text::derived(text, std::move(result)));
    out_.append(mark);
  }

  Budget& budget_;
  Text out_;
};

}  // namespace

std::string print_float(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  char buffer[40];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, number, std::chars_format::scientific).ptr;
  const std::string_view text(buffer, static_cast<std::size_t>(end - buffer));
  const std::size_t e = text.find('e');
  const bool negative = text.front() == '-';
  std::string digits;
  for (const char c : text.substr(negative ? 1 : 0, e - (negative ? 1 : 0)))
    if (c != '.') digits += c;
  const int exponent = std::stoi(std::string(text.substr(e + 1)));
  std::string result = negative ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    result += digits.substr(0, 1);
    if (digits.size() > 1) result += "." + digits.substr(1);
    return result + fmt::format("e{}{:02d}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0)
    return result + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() < whole) digits.append(whole - digits.size(), '0');
  const std::string fraction = digits.substr(whole);
  return result + digits.substr(0, whole) + "." + (fraction.empty() ? "0" : fraction);
}

Text print(const Value& value, Budget& budget) {
  if (value.is_text()) return value.text();
  if (value.is_undefined()) return {};
  return print_repr(value, budget);
}

Text print_repr(const Value& value, Budget& budget) {
  Printer printer(budget);
  printer.repr(value);
  return printer.take();
}

}  // namespace tandem::jinja
