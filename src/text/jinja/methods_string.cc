// Methods of strings.
#include <algorithm>
#include <array>

#include "text/jinja/format.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/runtime.h"
#include "text/jinja/strings.h"
#include "text/jinja/unicode.h"
#include "text/jinja/unicode_case.h"

namespace tandem::jinja {
namespace {

const Text& self(const Call& call) {
  call.budget().spend_bytes(call[0].text().size());
  return call[0].text();
}

Value stripped(const Call& call, Side side) {
  const Text& text = self(call);
  if (!call.has_value(1)) return Value(strip(text, nullptr, side));
  call.budget().spend(1 + call.string(1).size());
  return Value(strip(text, &call.string(1), side));
}

Value method_strip(const Call& call) { return stripped(call, Side::kBoth); }
Value method_lstrip(const Call& call) { return stripped(call, Side::kLeft); }
Value method_rstrip(const Call& call) { return stripped(call, Side::kRight); }

Value method_upper(const Call& call) {
  return Value(Text::derived(self(call), to_upper(call[0].text().bytes())));
}
Value method_lower(const Call& call) {
  return Value(Text::derived(self(call), to_lower(call[0].text().bytes())));
}
Value method_title(const Call& call) { return Value(title(self(call))); }
Value method_capitalize(const Call& call) { return Value(capitalize(self(call))); }

Value method_swapcase(const Call& call) {
  return Value(Text::derived(self(call), swap_case(call[0].text().bytes())));
}
Value method_casefold(const Call& call) {
  return Value(Text::derived(self(call), fold_case(call[0].text().bytes())));
}

// ------------------------------------------------------------ cutting and joining

Value texts(const Call& call, const std::vector<Text>& parts) {
  std::vector<Value> items;
  for (const Text& part : parts) {
    call.budget().spend(8);
    items.emplace_back(part);
  }
  return call.runtime().list(std::move(items));
}

// Splits at runs of white space, without empty parts. `limit` is the maximum number of splits;
// negative: no limit.
std::vector<Text> split_words(const Text& text, std::int64_t limit, bool from_right) {
  std::vector<Text> result;
  Text rest = strip(text, nullptr, from_right ? Side::kRight : Side::kLeft);
  std::size_t begin = 0;
  std::size_t end = rest.size();
  const std::string& bytes = rest.bytes();
  while (begin < end) {
    if (limit-- == 0) {
      result.push_back(
          strip(rest.slice(begin, end), nullptr, from_right ? Side::kRight : Side::kLeft));
      break;
    }
    std::size_t at = from_right ? end : begin;
    if (from_right) {
      while (at > begin && !is_space(decode_before(bytes, at).code))
        at -= decode_before(bytes, at).size;
      result.push_back(rest.slice(at, end));
      while (at > begin && is_space(decode_before(bytes, at).code))
        at -= decode_before(bytes, at).size;
      end = at;
    } else {
      while (at < end && !is_space(decode_at(bytes, at).code)) at += decode_at(bytes, at).size;
      result.push_back(rest.slice(begin, at));
      while (at < end && is_space(decode_at(bytes, at).code)) at += decode_at(bytes, at).size;
      begin = at;
    }
  }
  if (from_right) std::reverse(result.begin(), result.end());
  return result;
}

std::vector<Text> split_at(const Text& text, const std::string& separator, std::int64_t limit,
                           bool from_right) {
  if (separator.empty()) fail_here("empty separator");
  const std::string& bytes = text.bytes();
  std::vector<Text> result;
  std::size_t begin = 0;
  std::size_t end = bytes.size();
  for (; limit != 0; --limit) {
    if (from_right) {
      if (end < separator.size()) break;
      const std::size_t found = bytes.rfind(separator, end - separator.size());
      if (found == std::string::npos) break;
      result.push_back(text.slice(found + separator.size(), end));
      end = found;
    } else {
      const std::size_t found = bytes.find(separator, begin);
      if (found == std::string::npos) break;
      result.push_back(text.slice(begin, found));
      begin = found + separator.size();
    }
  }
  result.push_back(text.slice(begin, end));
  if (from_right) std::reverse(result.begin(), result.end());
  return result;
}

Value split(const Call& call, bool from_right) {
  const Text& text = self(call);
  call.budget().spend(1 + text.size() / 2);  // parts are larger than their bytes
  const std::int64_t limit = call.integer(2, -1);
  if (!call.has_value(1)) return texts(call, split_words(text, limit, from_right));
  return texts(call, split_at(text, call.string(1).bytes(), limit, from_right));
}

Value method_split(const Call& call) { return split(call, false); }
Value method_rsplit(const Call& call) { return split(call, true); }
Value method_splitlines(const Call& call) {
  return texts(call, split_lines(self(call), call.flag(1, false), call.budget()));
}

Value partition(const Call& call, bool from_right) {
  const Text& text = self(call);
  const std::string& separator = call.string(1).bytes();
  if (separator.empty()) fail_here("empty separator");
  const std::size_t found =
      from_right ? text.bytes().rfind(separator) : text.bytes().find(separator);
  if (found == std::string::npos) {
    const Value none{Text()};
    return make_tuple(call.budget(), from_right ? std::vector{none, none, call[0]}
                                                : std::vector{call[0], none, none});
  }
  const std::size_t after = found + separator.size();
  return make_tuple(call.budget(), {Value(text.slice(0, found)), Value(text.slice(found, after)),
                                    Value(text.slice(after, text.size()))});
}

Value method_partition(const Call& call) { return partition(call, false); }
Value method_rpartition(const Call& call) { return partition(call, true); }

Value method_join(const Call& call) {
  std::vector<Text> parts;
  for (const Value& item : iterate(call.runtime(), call[1])) {
    if (!item.is_text()) fail_here("join() needs strings, got '{}'", item.type_name());
    parts.push_back(item.text());
  }
  return Value(join(parts, self(call), call.budget()));
}

Value method_replace(const Call& call) {
  return Value(
      replace(self(call), call.string(1), call.string(2), call.integer(3, -1), call.budget()));
}

Value method_format(const Call& call) {
  return format_braces(call.runtime(), self(call), {call.more(), call.more_named()});
}

Value method_removeprefix(const Call& call) {
  const Text& text = self(call);
  const std::string& prefix = call.string(1).bytes();
  return Value(text.bytes().starts_with(prefix) ? text.slice(prefix.size(), text.size()) : text);
}

Value method_removesuffix(const Call& call) {
  const Text& text = self(call);
  const std::string& suffix = call.string(1).bytes();
  return Value(text.bytes().ends_with(suffix) ? text.slice(0, text.size() - suffix.size()) : text);
}

Value padded(const Call& call, Side side) {
  const Text fill = call.has(2) ? call.string(2) : Text(" ");
  if (count_code_points(fill.bytes()) != 1)
    fail_here("{}() needs one character to fill with", call.function());
  return Value(pad(self(call), call.integer(1, 0), fill.bytes(), side, call.budget()));
}

Value method_center(const Call& call) { return padded(call, Side::kBoth); }
Value method_ljust(const Call& call) { return padded(call, Side::kRight); }
Value method_rjust(const Call& call) { return padded(call, Side::kLeft); }

Value method_zfill(const Call& call) {
  const Text& text = self(call);
  const bool has_sign = !text.empty() && (text.bytes()[0] == '-' || text.bytes()[0] == '+');
  const std::size_t sign = has_sign ? 1 : 0;
  const std::int64_t width = call.integer(1, 0);
  Text result = text.slice(0, sign);
  result.append(pad(text.slice(sign, text.size()),
                    width < 1 ? 0 : width - static_cast<std::int64_t>(sign), "0", Side::kLeft,
                    call.budget()));
  return Value(std::move(result));
}

// ------------------------------------------------------------ searching

// The part of a text between two optional character indices, as byte offsets.
struct Window {
  std::size_t begin;
  std::size_t end;
};

Window window(const Call& call, std::size_t at) {
  const std::string& bytes = self(call).bytes();
  if (!call.has_value(at) && !call.has_value(at + 1)) return {0, bytes.size()};
  const auto size = static_cast<std::int64_t>(count_code_points(bytes));
  const auto place = [&](std::size_t index, std::int64_t fallback) {
    std::int64_t value = call.integer(index, fallback);
    if (value < 0) value = std::max<std::int64_t>(0, value < -size ? 0 : value + size);
    return value;
  };
  const std::int64_t begin = place(at, 0);
  const std::int64_t end = std::min(place(at + 1, size), size);
  if (begin > end) return {1, 0};
  return {offset_of(bytes, static_cast<std::size_t>(begin)),
          offset_of(bytes, static_cast<std::size_t>(end))};
}

bool matches_side(const Call& call, bool at_start) {
  const Window part = window(call, 2);
  if (part.begin > part.end) return false;
  const auto bytes =
      std::string_view(call[0].text().bytes()).substr(part.begin, part.end - part.begin);
  const auto matches = [&](const Value& value) {
    if (!value.is_text()) fail_here("{}() needs a string or a tuple of strings", call.function());
    const std::string& side = value.text().bytes();
    return at_start ? bytes.starts_with(side) : bytes.ends_with(side);
  };
  if (!call[1].is_list() || !call[1].list().is_tuple) return matches(call[1]);
  const auto& sides = call[1].list().items;
  call.budget().spend(sides.size());
  return std::any_of(sides.begin(), sides.end(), matches);
}

Value method_startswith(const Call& call) { return Value(matches_side(call, true)); }
Value method_endswith(const Call& call) { return Value(matches_side(call, false)); }

// Index in characters; -1 if not found.
std::int64_t find(const Call& call, bool from_right) {
  const Window part = window(call, 2);
  if (part.begin > part.end) return -1;
  const std::string_view bytes = call[0].text().bytes();
  const auto inside = bytes.substr(part.begin, part.end - part.begin);
  const std::string& wanted = call.string(1).bytes();
  const std::size_t found = from_right ? inside.rfind(wanted) : inside.find(wanted);
  if (found == std::string_view::npos) return -1;
  return static_cast<std::int64_t>(count_code_points(bytes.substr(0, part.begin + found)));
}

std::int64_t index(const Call& call, bool from_right) {
  const std::int64_t found = find(call, from_right);
  if (found < 0) fail_here("substring not found");
  return found;
}

Value method_find(const Call& call) { return Value(find(call, false)); }
Value method_rfind(const Call& call) { return Value(find(call, true)); }
Value method_index(const Call& call) { return Value(index(call, false)); }
Value method_rindex(const Call& call) { return Value(index(call, true)); }

Value method_count(const Call& call) {
  const Window part = window(call, 2);
  if (part.begin > part.end) return Value(std::int64_t{0});
  const auto bytes =
      std::string_view(call[0].text().bytes()).substr(part.begin, part.end - part.begin);
  const std::string& wanted = call.string(1).bytes();
  if (wanted.empty()) return Value(static_cast<std::int64_t>(count_code_points(bytes)) + 1);
  std::int64_t count = 0;
  for (std::size_t at = bytes.find(wanted); at != std::string_view::npos;
       at = bytes.find(wanted, at + wanted.size()))
    ++count;
  return Value(count);
}

// ------------------------------------------------------------ kinds of characters

template <typename Is>
Value all_are(const Call& call, Is is) {
  const Text& text = self(call);
  for (std::size_t i = 0; i < text.size();) {
    const CodePoint c = decode_at(text.bytes(), i);
    if (!is(c.code)) return Value(false);
    i += c.size;
  }
  return Value(!text.empty());
}

Value method_isalpha(const Call& call) { return all_are(call, is_alpha); }
Value method_isspace(const Call& call) { return all_are(call, is_space); }
Value method_isdecimal(const Call& call) { return all_are(call, is_decimal); }
Value method_isnumeric(const Call& call) { return all_are(call, is_numeric); }
Value method_isalnum(const Call& call) {
  return all_are(call, [](char32_t c) { return is_alpha(c) || is_numeric(c); });
}

// Superscripts are digits in Python, but not decimals.
Value method_isdigit(const Call& call) {
  return all_are(call, [](char32_t c) {
    return is_decimal(c) || c == 0xB2 || c == 0xB3 || c == 0xB9 ||
           (c >= 0x2070 && c <= 0x2089 && is_numeric(c));
  });
}

Value method_isupper(const Call& call) {
  return Value(apply_test(call.runtime(), "upper", {{call[0]}, {}}));
}
Value method_islower(const Call& call) {
  return Value(apply_test(call.runtime(), "lower", {{call[0]}, {}}));
}

constexpr auto kMethods = std::to_array<Builtin>({
    {"strip", "self chars?", method_strip},
    {"lstrip", "self chars?", method_lstrip},
    {"rstrip", "self chars?", method_rstrip},
    {"split", "self sep? maxsplit?", method_split},
    {"rsplit", "self sep? maxsplit?", method_rsplit},
    {"splitlines", "self keepends?", method_splitlines},
    {"partition", "self sep", method_partition},
    {"rpartition", "self sep", method_rpartition},
    {"join", "self iterable", method_join},
    {"replace", "self old new count?", method_replace},
    {"format", "self *", method_format},
    {"removeprefix", "self prefix", method_removeprefix},
    {"removesuffix", "self suffix", method_removesuffix},
    {"upper", "self", method_upper},
    {"lower", "self", method_lower},
    {"casefold", "self", method_casefold},
    {"title", "self", method_title},
    {"capitalize", "self", method_capitalize},
    {"swapcase", "self", method_swapcase},
    {"center", "self width fillchar?", method_center},
    {"ljust", "self width fillchar?", method_ljust},
    {"rjust", "self width fillchar?", method_rjust},
    {"zfill", "self width", method_zfill},
    {"startswith", "self prefix start? end?", method_startswith},
    {"endswith", "self suffix start? end?", method_endswith},
    {"find", "self sub start? end?", method_find},
    {"rfind", "self sub start? end?", method_rfind},
    {"index", "self sub start? end?", method_index},
    {"rindex", "self sub start? end?", method_rindex},
    {"count", "self sub start? end?", method_count},
    {"isalpha", "self", method_isalpha},
    {"isspace", "self", method_isspace},
    {"isdecimal", "self", method_isdecimal},
    {"isnumeric", "self", method_isnumeric},
    {"isalnum", "self", method_isalnum},
    {"isdigit", "self", method_isdigit},
    {"isupper", "self", method_isupper},
    {"islower", "self", method_islower},
});

}  // namespace

std::span<const Builtin> string_methods() { return kMethods; }

}  // namespace tandem::jinja
