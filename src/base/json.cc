// Parsing JSON from untrusted files, and reading it key by key.
#include "base/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/json_cursor.h"
#include "base/long_integer.h"
#include "base/printable.h"

namespace tandem {
namespace {

constexpr std::string_view kNan = "NaN";
constexpr std::string_view kInfinity = "Infinity";

// A number that Python's json reads and writes and that JSON does not have.
struct NonFinite {
  // Of its first letter; a minus sign stands before it.
  std::size_t at;
  std::string_view word;
};

// Where such numbers stand in `text`, outside strings.
std::vector<NonFinite> find_non_finite(std::string_view text) {
  std::vector<NonFinite> found;
  constexpr auto kNone = std::string_view::npos;
  if (text.find(kNan) == kNone && text.find(kInfinity) == kNone) return found;
  const auto ends_value = [&](std::size_t at) {
    return at >= text.size() || std::string_view(" \t\r\n,:[]{}").find(text[at]) != kNone;
  };
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (in_string) {
      if (text[i] == '\\') {
        ++i;
      } else if (text[i] == '"') {
        in_string = false;
      }
      continue;
    }
    if (text[i] == '"') in_string = true;
    if (text[i] != kNan[0] && text[i] != kInfinity[0]) continue;
    const std::string_view word = text[i] == kNan[0] ? kNan : kInfinity;
    const std::size_t begin = word == kInfinity && i > 0 && text[i - 1] == '-' ? i - 1 : i;
    if (text.substr(i).starts_with(word) && ends_value(i + word.size()) &&
        (begin == 0 || ends_value(begin - 1)))
      found.push_back({i, word});
  }
  return found;
}

std::string describe_value(const Json& value) {
  if (value.is_number_float() && !std::isfinite(value.get<double>())) {
    const double number = value.get<double>();
    return std::isnan(number) ? "NaN" : number > 0 ? "Infinity" : "-Infinity";
  }
  if (value.is_object()) return fmt::format("an object of {} keys", value.size());
  if (value.is_array()) return fmt::format("an array of {} values", value.size());
  if (value.is_string()) return '"' + printable(value.get_ref<const std::string&>()) + '"';
  return printable(value.dump());
}

void check_key_counts(const Json& value, std::string_view where) {
  if (value.is_object() && value.size() > kMaxOrderedKeys) {
    fail(ErrorCode::kFormat, "[json] {}: an object of {} keys, expected at most {}", where,
         value.size(), kMaxOrderedKeys);
  }
  if (!value.is_structured()) return;
  for (const Json& child : value) check_key_counts(child, where);
}

// Builds the tree from the parser's events, so that depth and keys are checked during parsing, not
// after.
class TreeBuilder {
 public:
  TreeBuilder(std::string_view text, std::string_view where)
      : text_(text), where_(where), non_finite_(find_non_finite(text)) {
    // The parser is given zeros of the same length, and number_float() what they stand for.
    if (!non_finite_.empty()) {
      finite_ = text;
      for (const NonFinite& number : non_finite_) {
        finite_.replace(number.at, number.word.size(), number.word.size(), '0');
        finite_[number.at + 1] = '.';
      }
      text_ = finite_;
    }
    read_ = text_.data();
  }
  TreeBuilder(const TreeBuilder&) = delete;
  TreeBuilder& operator=(const TreeBuilder&) = delete;

  Json build() {
    const char* begin = text_.data();
    const char* end = begin + text_.size();
    Json::sax_parse(JsonCursor(begin, &read_), JsonCursor(end, &read_), this);
    return std::move(root_);
  }

  // The SAX interface that the parser calls.
  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(std::int64_t value) { return add(value); }
  bool number_unsigned(std::uint64_t value) { return add(value); }
  bool number_float(double value, const std::string&) {
    // Numbers come in the order of the text, and the parser is never further than one character
    // beyond the one that it reports.
    const auto reached = static_cast<std::size_t>(read_ - text_.data());
    if (next_non_finite_ < non_finite_.size() && non_finite_[next_non_finite_].at < reached) {
      const bool nan = non_finite_[next_non_finite_++].word == kNan;
      value = nan ? std::numeric_limits<double>::quiet_NaN()
                  : std::copysign(std::numeric_limits<double>::infinity(), value);
    }
    return add(value);
  }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(Json::binary_t&) { fail_here("binary values are not JSON"); }
  bool start_object(std::size_t) { return open(Json::object()); }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }

  bool key(std::string& name) {
    const auto [slot, inserted] = open_.back()->get_ref<Json::object_t&>().emplace(name, nullptr);
    if (!inserted)
      fail_here(fmt::format("key \"{}\" appears twice in one object", printable(name)));
    slot_ = &slot->second;
    return true;
  }

  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) {
    // The library's message has its own prefix and position; the reason follows the last ": ".
    std::string_view reason = error.what();
    if (const auto prefix = reason.find("] "); prefix != std::string_view::npos)
      reason.remove_prefix(prefix + 2);
    if (reason.starts_with("parse error at")) {
      if (const auto colon = reason.find(": "); colon != std::string_view::npos)
        reason.remove_prefix(colon + 2);
    }
    fail_here(printable(reason));
  }

 private:
  Json* place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array())
      return &open_.back()->get_ref<Json::array_t&>().emplace_back(std::move(value));
    *slot_ = std::move(value);
    return slot_;
  }

  bool add(Json value) {
    place(std::move(value));
    return true;
  }

  bool open(Json value) {
    if (open_.size() >= static_cast<std::size_t>(kMaxJsonDepth))
      fail_here(fmt::format("nested deeper than {} levels", kMaxJsonDepth));
    open_.push_back(place(std::move(value)));
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  // Line and column of the last character read, both from 1, the column in bytes.
  [[noreturn]] void fail_here(const std::string& reason) {
    const std::string_view before = text_.substr(0, static_cast<std::size_t>(read_ - text_.data()));
    const auto line =
        1 + std::ranges::count(before.substr(0, before.empty() ? 0 : before.size() - 1), '\n');
    const auto newline =
        before.size() < 2 ? std::string_view::npos : before.rfind('\n', before.size() - 2);
    const std::size_t column =
        newline == std::string_view::npos ? before.size() : before.size() - newline - 1;
    fail(ErrorCode::kFormat, "[json] {}: line {}, column {}: {}", where_, line,
         std::max<std::size_t>(column, 1), reason);
  }

  std::string_view text_;
  std::string_view where_;
  const std::vector<NonFinite> non_finite_;
  std::size_t next_non_finite_ = 0;
  // The text without non-finite numbers, if it has any.
  std::string finite_;
  const char* read_ = nullptr;
  Json root_;
  // The arrays and objects being read; a parent does not grow while its child is open.
  std::vector<Json*> open_;
  // Where the value of the last key goes.
  Json* slot_ = nullptr;
};

}  // namespace

Json parse_json(std::string_view text, std::string_view where) {
  return TreeBuilder(text, where).build();
}

OrderedJson parse_ordered_json(std::string_view text, std::string_view where) {
  check_key_counts(parse_json(text, where), where);
  const std::vector<NonFinite> non_finite = find_non_finite(text);
  if (non_finite.empty()) return parse_with_long_integers(text);
  std::string finite;
  std::size_t done = 0;
  for (const auto& [at, word] : non_finite) {
    finite += text.substr(done, at - done);
    finite += word == kNan ? kNanSpelling : kInfinitySpelling;
    done = at + word.size();
  }
  finite += text.substr(done);
  return parse_with_long_integers(finite);
}

Json read_json_file(const fs::path& path, std::size_t max_bytes) {
  return parse_json(read_text_file(path, max_bytes), path.string());
}

JsonObject::JsonObject(const Json& object, std::string where)
    : json_(&object), where_(std::move(where)) {
  if (!object.is_object())
    fail(ErrorCode::kFormat, "[json] {}: expected an object, got {}", where_,
         describe_value(object));
}

std::string JsonObject::place(std::string_view key) const {
  return fmt::format("{}{}{}", where_, nested_ ? "." : ": ", printable(key));
}

bool JsonObject::has(std::string_view key) const {
  const auto found = json_->find(key);
  return found != json_->end() && !found->is_null();
}

const Json& JsonObject::at(std::string_view key) const {
  const auto found = json_->find(key);
  if (found == json_->end() || found->is_null())
    fail(ErrorCode::kNotFound, "[json] {}: is missing", place(key));
  return *found;
}

JsonObject JsonObject::child(std::string_view key) const {
  JsonObject object(at(key), place(key));
  object.nested_ = true;
  return object;
}

std::int64_t JsonObject::get_int(std::string_view key, std::int64_t min, std::int64_t max) const {
  const Json& value = at(key);
  const bool fits =
      value.is_number_integer() &&
      (!value.is_number_unsigned() ||
       value.get<std::uint64_t>() <= std::uint64_t{std::numeric_limits<std::int64_t>::max()});
  if (!fits || value.get<std::int64_t>() < min || value.get<std::int64_t>() > max)
    fail(ErrorCode::kFormat, "[json] {}: expected an integer in [{}, {}], got {}", place(key), min,
         max, describe_value(value));
  return value.get<std::int64_t>();
}

double JsonObject::get_number(std::string_view key) const {
  const Json& value = at(key);
  if (!value.is_number())
    fail(ErrorCode::kFormat, "[json] {}: expected a number, got {}", place(key),
         describe_value(value));
  if (!std::isfinite(value.get<double>()))
    fail(ErrorCode::kFormat, "[json] {}: expected a finite number, got {}", place(key),
         describe_value(value));
  return value.get<double>();
}

bool JsonObject::get_bool(std::string_view key) const {
  const Json& value = at(key);
  if (!value.is_boolean())
    fail(ErrorCode::kFormat, "[json] {}: expected true or false, got {}", place(key),
         describe_value(value));
  return value.get<bool>();
}

std::string JsonObject::get_string(std::string_view key) const {
  const Json& value = at(key);
  if (!value.is_string())
    fail(ErrorCode::kFormat, "[json] {}: expected a string, got {}", place(key),
         describe_value(value));
  return value.get<std::string>();
}

std::vector<std::int64_t> JsonObject::get_ints(std::string_view key) const {
  const Json& value = at(key);
  std::vector<std::int64_t> numbers;
  const auto add = [&](const Json& number) {
    const bool fits =
        number.is_number_integer() &&
        (!number.is_number_unsigned() ||
         number.get<std::uint64_t>() <= std::uint64_t{std::numeric_limits<std::int64_t>::max()});
    if (!fits)
      fail(ErrorCode::kFormat, "[json] {}: expected an integer or an array of integers, got {}",
           place(key), describe_value(number));
    numbers.push_back(number.get<std::int64_t>());
  };
  if (value.is_array()) {
    std::ranges::for_each(value, add);
  } else {
    add(value);
  }
  return numbers;
}

std::int64_t JsonObject::get_int_or(std::string_view key, std::int64_t fallback, std::int64_t min,
                                    std::int64_t max) const {
  return has(key) ? get_int(key, min, max) : fallback;
}

double JsonObject::get_number_or(std::string_view key, double fallback) const {
  return has(key) ? get_number(key) : fallback;
}

bool JsonObject::get_bool_or(std::string_view key, bool fallback) const {
  return has(key) ? get_bool(key) : fallback;
}

std::string JsonObject::get_string_or(std::string_view key, std::string fallback) const {
  return has(key) ? get_string(key) : std::move(fallback);
}

}  // namespace tandem
