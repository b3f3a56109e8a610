// Conversion from and to JSON.
#include "text/jinja/json.h"

#include <algorithm>
#include <cmath>

#include "base/long_integer.h"
#include "base/merge_sort.h"
#include "text/jinja/big_integer.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/unicode.h"

namespace tandem::jinja {
namespace {

Value integer_of(const std::string& digits) {
  if (const auto number = parse_integer(digits, 10)) return *number;
  fail_here("binary values are not JSON");
}

Value convert(const OrderedJson& json, bool from_chat, Budget& budget, int depth) {
  if (depth > kMaxValueDepth) fail_here("the context is nested more than {} deep", kMaxValueDepth);
  switch (json.type()) {
    case OrderedJson::value_t::boolean:
      return Value(json.get<bool>());
    case OrderedJson::value_t::number_integer:
      return Value(json.get<std::int64_t>());
    case OrderedJson::value_t::number_unsigned: {
      const auto number = json.get<std::uint64_t>();
      if (number <= static_cast<std::uint64_t>(INT64_MAX))
        return Value(static_cast<std::int64_t>(number));
      return integer_of(std::to_string(number));
    }
    case OrderedJson::value_t::binary:
      return integer_of(long_integer_digits(json).value_or(""));
    case OrderedJson::value_t::number_float:
      return Value(json.get<double>());
    case OrderedJson::value_t::string:
      return make_text(budget, Text(json.get_ref<const std::string&>(), from_chat));
    case OrderedJson::value_t::array: {
      std::vector<Value> items;
      for (const auto& item : json) items.push_back(convert(item, from_chat, budget, depth + 1));
      return make_list(budget, std::move(items));
    }
    case OrderedJson::value_t::object: {
      Dict dict;
      // Keys are marked too: a tool's argument names are as untrusted as its values.
      for (const auto& [key, value] : json.items())
        dict.set(budget, Value(Text(key, from_chat)), convert(value, from_chat, budget, depth + 1));
      return make_dict(std::move(dict));
    }
    default:
      return Value();
  }
}

class Writer {
 public:
  Writer(const JsonStyle& style, Budget& budget) : style_(style), budget_(budget) {}

  void write(const Value& value, std::size_t level) {
    budget_.spend();
    if (out_.size() > kMaxTextBytes) fail_here("a text of more than {} bytes", kMaxTextBytes);
    if (value.is_text())
      string(value.text());
    else if (value.is_list())
      list(value.list(), level);
    else if (value.is_dict())
      dict(value.dict(), level);
    else
      out_.append(scalar(value));
  }

  Text take() {
    budget_.spend_text(out_.size());
    return std::move(out_);
  }

 private:
  static std::string scalar(const Value& value) {
    if (value.is_none()) return "null";
    if (value.is_bool()) return value.boolean() ? "true" : "false";
    if (value.is_int()) return print_integer(value);
    if (!value.is_float())
      fail_here("Object of type {} is not JSON serializable", value.type_name());
    if (std::isnan(value.number())) return "NaN";
    if (std::isinf(value.number())) return value.number() < 0 ? "-Infinity" : "Infinity";
    return print_float(value.number());
  }

  void break_line(std::size_t level) {
    if (!style_.indent) return;
    budget_.spend_text(style_.indent->size() * level);
    out_.append("\n");
    for (std::size_t i = 0; i < level; ++i) out_.append(*style_.indent);
  }

  void list(const List& list, std::size_t level) {
    if (list.items.empty()) return out_.append("[]");
    out_.append("[");
    for (std::size_t i = 0; i < list.items.size(); ++i) {
      if (i != 0) out_.append(style_.item_separator);
      break_line(level + 1);
      write(list.items[i], level + 1);
    }
    break_line(level);
    out_.append("]");
  }

  void dict(const Dict& dict, std::size_t level) {
    if (dict.entries().empty()) return out_.append("{}");
    std::vector<const Dict::Entry*> entries;
    for (const auto& entry : dict.entries()) entries.push_back(&entry);
    if (style_.sort_keys)
      merge_sort(entries, [&](const Dict::Entry* a, const Dict::Entry* b) {
        return less(a->first, b->first, budget_);
      });
    out_.append("{");
    bool first = true;
    for (const Dict::Entry* entry : entries) {
      if (!first) out_.append(style_.item_separator);
      first = false;
      break_line(level + 1);
      const Value& key = entry->first;
      if (key.is_list() || key.is_object()) fail_here("a JSON key can't be a {}", key.type_name());
      string(key.is_text() ? key.text() : Text(scalar(key)));
      out_.append(style_.key_separator);
      write(entry->second, level + 1);
    }
    break_line(level);
    out_.append("}");
  }

  void string(const Text& text) {
    budget_.spend_text(text.size());
    std::string result;
    const std::string& bytes = text.bytes();
    for (std::size_t i = 0; i < bytes.size();) {
      const CodePoint c = decode_at(bytes, i);
      if (c.code < 0x80)
        escape_ascii(result, static_cast<char>(c.code));
      else if (style_.ascii_only)
        escape_unicode(result, c.code);
      else
        result.append(bytes, i, c.size);
      i += c.size;
    }
    out_.append("\"");
    out_.append(Text::derived(text, std::move(result)));
    out_.append("\"");
  }

  static void escape_ascii(std::string& out, char c) {
    switch (c) {
      case '"':
        out += "\\\"";
        return;
      case '\\':
        out += "\\\\";
        return;
      case '\n':
        out += "\\n";
        return;
      case '\r':
        out += "\\r";
        return;
      case '\t':
        out += "\\t";
        return;
      case '\f':
        out += "\\f";
        return;
      case '\b':
        out += "\\b";
        return;
      default:
        break;
    }
    if (static_cast<unsigned char>(c) < 0x20)
      escape_unicode(out, static_cast<char32_t>(c));
    else
      out += c;
  }

  // Characters beyond 16 bits become a surrogate pair.
  static void escape_unicode(std::string& out, char32_t code) {
    auto value = static_cast<unsigned>(code);
    if (value >= 0x10000) {
      value -= 0x10000;
      out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (value >> 10), 0xDC00 + (value & 0x3FF));
    } else {
      out += fmt::format("\\u{:04x}", value);
    }
  }

  const JsonStyle& style_;
  Budget& budget_;
  Text out_;
};

}  // namespace

Value from_json(const OrderedJson& json, bool from_chat, Budget& budget) {
  return convert(json, from_chat, budget, 0);
}

Text to_json(const Value& value, const JsonStyle& style, Budget& budget) {
  Writer writer(style, budget);
  writer.write(value, 0);
  return writer.take();
}

}  // namespace tandem::jinja
