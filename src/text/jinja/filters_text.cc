// Filters that produce strings.
#include <array>
#include <cctype>
#include <cstring>

#include "text/jinja/format.h"
#include "text/jinja/json.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/runtime.h"
#include "text/jinja/strings.h"
#include "text/jinja/unicode.h"
#include "text/jinja/unicode_case.h"

namespace tandem::jinja {
namespace {

Value filter_string(const Call& call) { return Value(call.text(0)); }
Value filter_safe(const Call& call) { return call[0]; }

Value filter_trim(const Call& call) {
  const Text text = call.text(0);
  call.budget().spend_bytes(text.size());
  if (!call.has_value(1)) return Value(strip(text, nullptr, Side::kBoth));
  const Text chars = call.text(1);
  call.budget().spend(1 + chars.size());
  return Value(strip(text, &chars, Side::kBoth));
}

// Applies a function of one string whose result has about the same length.
template <typename Function>
Value mapped(const Call& call, Function function) {
  const Text text = call.text(0);
  call.budget().spend_text(text.size());
  return Value(function(text));
}

Value filter_upper(const Call& call) {
  return mapped(call, [](const Text& text) { return Text::derived(text, to_upper(text.bytes())); });
}

Value filter_lower(const Call& call) {
  return mapped(call, [](const Text& text) { return Text::derived(text, to_lower(text.bytes())); });
}

Value filter_capitalize(const Call& call) {
  return mapped(call, [](const Text& text) { return capitalize(text); });
}

// Jinja's own rule: a word starts after white space, a hyphen or an opening bracket. Its first
// character is in upper case, and the rest is mapped as if it stood alone.
Value filter_title(const Call& call) {
  return mapped(call, [](const Text& text) {
    const std::string_view bytes = text.bytes();
    std::string result;
    std::size_t begin = 0;
    const auto add_word = [&](std::size_t end) {
      if (begin == end) return;
      const std::size_t first = decode_at(bytes, begin).size;
      result += to_upper(bytes.substr(begin, first));
      result += to_lower(bytes.substr(begin + first, end - begin - first));
    };
    for (std::size_t i = 0; i < bytes.size();) {
      const CodePoint c = decode_at(bytes, i);
      if (is_space(c.code) ||
          std::u32string_view(U"-({[<").find(c.code) != std::u32string_view::npos) {
        add_word(i);
        result += bytes.substr(i, c.size);
        begin = i + c.size;
      }
      i += c.size;
    }
    add_word(bytes.size());
    return Text::derived(text, std::move(result));
  });
}

Value filter_escape(const Call& call) {
  return mapped(call, [&](const Text& text) {
    std::string result;
    for (const char c : text.bytes()) {
      switch (c) {
        case '&':
          result += "&amp;";
          break;
        case '<':
          result += "&lt;";
          break;
        case '>':
          result += "&gt;";
          break;
        case '\'':
          result += "&#39;";
          break;
        case '"':
          result += "&#34;";
          break;
        default:
          result += c;
      }
    }
    call.budget().spend_text(result.size());
    return Text::derived(text, std::move(result));
  });
}

Value filter_replace(const Call& call) {
  return Value(
      replace(call.text(0), call.text(1), call.text(2), call.integer(3, -1), call.budget()));
}

Value filter_indent(const Call& call) {
  const Text text = call.text(0);
  const std::int64_t width = call[1].is_text() ? 0 : call.integer(1, 4);
  const Text indent =
      call[1].is_text() ? call[1].text() : pad(Text(), width, " ", Side::kLeft, call.budget());
  const bool first = call.flag(2, false);
  const bool blank = call.flag(3, false);
  // A trailing newline starts one more, empty line.
  Text ended = text;
  ended.append("\n");
  std::vector<Text> lines = split_lines(ended, false, call.budget());
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i == 0 ? !first : lines[i].empty() && !blank) continue;
    call.budget().spend_text(indent.size() + lines[i].size());
    Text line = indent;
    line.append(lines[i]);
    lines[i] = std::move(line);
  }
  return Value(join(lines, Text("\n"), call.budget()));
}

Value filter_format(const Call& call) {
  Arguments arguments{call.more(), call.more_named()};
  if (!arguments.positional.empty() && !arguments.named.empty())
    fail_here("format can't take positional and named arguments at once");
  return format_percent(call.runtime(), call.text(0), arguments);
}

Value filter_center(const Call& call) {
  return Value(pad(call.text(0), call.integer(1, 80), " ", Side::kBoth, call.budget()));
}

// At most `length` characters, ending with `end`; cut at a word boundary unless `killwords`.
Value filter_truncate(const Call& call) {
  const Text text = call.text(0);
  const std::int64_t limit = call.integer(1, 255);
  const bool kill_words = call.flag(2, false);
  const Text end = call.has_value(3) ? call.text(3) : Text("...");
  const std::int64_t leeway = call.integer(4, 5);
  call.budget().spend_text(text.size() + end.size());
  const auto end_size = static_cast<std::int64_t>(count_code_points(end.bytes()));
  if (limit < end_size || leeway < 0)
    fail_here("truncate() needs at least {} characters", end_size);
  const auto size = static_cast<std::int64_t>(count_code_points(text.bytes()));
  if (size - leeway <= limit) return Value(text);
  Text result = text.slice(0, offset_of(text.bytes(), static_cast<std::size_t>(limit - end_size)));
  if (!kill_words)
    if (const std::size_t space = result.bytes().rfind(' '); space != std::string::npos)
      result = result.slice(0, space);
  result.append(end);
  return Value(std::move(result));
}

Value filter_wordcount(const Call& call) {
  const Text text = call.text(0);
  call.budget().spend_bytes(text.size());
  std::int64_t count = 0;
  bool inside = false;
  for (std::size_t i = 0; i < text.size();) {
    const CodePoint c = decode_at(text.bytes(), i);
    const bool in_word = is_alpha(c.code) || is_numeric(c.code) || c.code == '_';
    if (in_word && !inside) ++count;
    inside = in_word;
    i += c.size;
  }
  return Value(count);
}

// Like Python's quote(), or quote_plus() for the parts of a query.
Text quoted(const Call& call, const Value& value, bool of_query) {
  const Text text = print(value, call.budget());
  call.budget().spend_text(3 * text.size());
  std::string bytes;
  for (const char c : text.bytes()) {
    const auto byte = static_cast<unsigned char>(c);
    const bool kept = byte < 0x80 && (std::isalnum(byte) != 0 || std::strchr("_.-~", c) != nullptr);
    if ((kept && c != '\0') || (c == '/' && !of_query)) {
      bytes += c;
    } else if (c == ' ' && of_query) {
      bytes += '+';
    } else {
      bytes += fmt::format("%{:02X}", byte);
    }
  }
  return Text::derived(text, std::move(bytes));
}

Value filter_urlencode(const Call& call) {
  if (!call[0].is_dict()) return Value(quoted(call, call[0], false));
  Text result;
  for (const auto& [key, value] : call[0].dict().entries()) {
    if (!result.empty()) result.append("&");
    result.append(quoted(call, key, true));
    result.append("=");
    result.append(quoted(call, value, true));
  }
  return Value(std::move(result));
}

// transformers' own filter: json.dumps without escapes for HTML.
Value filter_tojson(const Call& call) {
  JsonStyle style;
  style.ascii_only = call.flag(1, false);
  if (call.has_value(2)) {
    style.indent = call[2].is_text()
                       ? call[2].text().bytes()
                       : pad(Text(), call.integer(2, 0), " ", Side::kLeft, call.budget()).bytes();
    style.item_separator = ",";
  }
  if (call.has_value(3)) {
    const auto separators = iterate(call.runtime(), call[3]);
    if (separators.size() != 2 || !separators[0].is_text() || !separators[1].is_text())
      fail_here("tojson() needs two strings as separators");
    style.item_separator = separators[0].text().bytes();
    style.key_separator = separators[1].text().bytes();
    if (style.item_separator.size() + style.key_separator.size() > 64)
      fail_here("separators are too long");
  }
  style.sort_keys = call.flag(4, false);
  return Value(to_json(call[0], style, call.budget()));
}

constexpr auto kFilters = std::to_array<Builtin>({
    {"tojson", "value ensure_ascii? indent? separators? sort_keys?", filter_tojson},
    {"trim", "value chars?", filter_trim},
    {"strip", "value chars?", filter_trim},
    {"upper", "s", filter_upper},
    {"lower", "s", filter_lower},
    {"title", "s", filter_title},
    {"capitalize", "s", filter_capitalize},
    {"string", "value", filter_string},
    {"safe", "value", filter_safe},
    {"escape", "value", filter_escape},
    {"e", "value", filter_escape},
    {"forceescape", "value", filter_escape},
    {"replace", "s old new count?", filter_replace},
    {"indent", "s width? first? blank?", filter_indent},
    {"format", "value *", filter_format},
    {"center", "value width?", filter_center},
    {"truncate", "s length? killwords? end? leeway?", filter_truncate},
    {"wordcount", "s", filter_wordcount},
    {"urlencode", "value", filter_urlencode},
});

}  // namespace

std::span<const Builtin> text_filters() { return kFilters; }

}  // namespace tandem::jinja
