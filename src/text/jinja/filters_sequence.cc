// Filters that iterate over lists.
#include <algorithm>
#include <array>
#include <charconv>

#include "text/jinja/attribute_path.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/runtime.h"
#include "text/jinja/strings.h"
#include "text/jinja/unicode.h"
#include "text/jinja/unicode_case.h"

namespace tandem::jinja {
namespace {

Value filter_list(const Call& call) {
  return call.runtime().list(iterate(call.runtime(), call[0]));
}

Value filter_first(const Call& call) {
  const auto items = iterate(call.runtime(), call[0]);
  return items.empty() ? Value::undefined("no first item, sequence was empty") : items.front();
}

Value filter_last(const Call& call) {
  if (call[0].is_dict() || call[0].is_list() || call[0].is_text() || call[0].is_undefined()) {
    const auto items = iterate(call.runtime(), call[0]);
    return items.empty() ? Value::undefined("no last item, sequence was empty") : items.back();
  }
  fail_here("'{}' object is not reversible", call[0].type_name());
}

Value filter_reverse(const Call& call) {
  auto items = iterate(call.runtime(), call[0]);
  std::reverse(items.begin(), items.end());
  if (!call[0].is_text()) return call.runtime().list(std::move(items));
  Text result;
  for (const Value& item : items) result.append(item.text());
  return Value(std::move(result));
}

Value filter_join(const Call& call) {
  std::vector<Text> parts;
  for (const Value& item : iterate(call.runtime(), call[0]))
    parts.push_back(print(call.has_value(2) ? follow_path(call.runtime(), item, call[2]) : item,
                          call.budget()));
  return Value(join(parts, call.has(1) ? call.text(1) : Text(), call.budget()));
}

Value filter_items(const Call& call) {
  std::vector<Value> result;
  if (call[0].is_undefined()) return call.runtime().list(std::move(result));
  if (!call[0].is_dict())
    fail_here("can only get item pairs from a mapping, got '{}'", call[0].type_name());
  for (const auto& [key, value] : call[0].dict().entries())
    result.push_back(make_tuple(call.budget(), {key, value}));
  return call.runtime().list(std::move(result));
}

Value filter_attr(const Call& call) {
  const Value& value = call[0];
  const std::string& name = call.string(1).bytes();
  // Only attributes, no keys: among the values that templates see, objects and methods have
  // attributes.
  if (value.is_dict() && value.dict().find(name) != nullptr &&
      find_builtin(dict_methods(), name) == nullptr)
    return Value::undefined(fmt::format("'dict object' has no attribute '{}'", name));
  return get_attribute(call.runtime(), value, name);
}

// map(attribute="path", default=…), or map("filter", arguments…).
Value filter_map(const Call& call) {
  const auto& named = call.more_named();
  const auto named_argument = [&](std::string_view name) -> const Value* {
    for (const auto& [key, value] : named)
      if (key == name) return &value;
    return nullptr;
  };
  std::vector<Value> result;
  if (const Value* path = named_argument("attribute"); path != nullptr && call.more().empty()) {
    const Value* fallback = named_argument("default");
    if (named.size() > (fallback != nullptr ? 2U : 1U))
      fail_here("map() takes 'attribute' and 'default' only");
    for (const Value& item : iterate(call.runtime(), call[0])) {
      Value value = follow_path(call.runtime(), item, *path);
      const bool missing = fallback != nullptr && !fallback->is_none() && value.is_undefined();
      result.push_back(missing ? *fallback : std::move(value));
    }
    return call.runtime().list(std::move(result));
  }
  if (call.more().empty() || !call.more()[0].is_text())
    fail_here("map() needs the name of a filter");
  for (const Value& item : iterate(call.runtime(), call[0])) {
    Arguments arguments{call.more(), named};
    std::string name = arguments.positional[0].text().bytes();
    arguments.positional[0] = item;
    result.push_back(apply_filter(call.runtime(), name, std::move(arguments)));
  }
  return call.runtime().list(std::move(result));
}

// The items for which the truth value, or the result of a test, is `wanted`; applied to an
// attribute of the items if `by_attribute`.
Value filtered(const Call& call, bool wanted, bool by_attribute) {
  const std::size_t test_at = by_attribute ? 1 : 0;
  if (call.more().size() < test_at) fail_here("{}() needs an attribute", call.function());
  const bool has_test = call.more().size() > test_at;
  if (has_test && !call.more()[test_at].is_text())
    fail_here("{}() needs the name of a test", call.function());
  std::vector<Value> result;
  for (const Value& item : iterate(call.runtime(), call[0])) {
    Value subject = by_attribute ? follow_path(call.runtime(), item, call.more()[0]) : item;
    bool passes;
    if (has_test) {
      Arguments arguments{
          {call.more().begin() + static_cast<std::ptrdiff_t>(test_at), call.more().end()},
          call.more_named()};
      arguments.positional[0] = std::move(subject);
      passes =
          apply_test(call.runtime(), call.more()[test_at].text().bytes(), std::move(arguments));
    } else {
      passes = is_true(subject);
    }
    if (passes == wanted) result.push_back(item);
  }
  return call.runtime().list(std::move(result));
}

Value filter_select(const Call& call) { return filtered(call, true, false); }
Value filter_reject(const Call& call) { return filtered(call, false, false); }
Value filter_selectattr(const Call& call) { return filtered(call, true, true); }
Value filter_rejectattr(const Call& call) { return filtered(call, false, true); }

// Lists of `count` items each; the last one is padded with the second argument if given.
Value filter_batch(const Call& call) {
  const std::int64_t count = call.integer(1, 0);
  if (count < 1 || count > kMaxRange)
    fail_here("batch() needs a count in [1, {}], got {}", kMaxRange, count);
  std::vector<Value> result;
  std::vector<Value> row;
  for (Value& item : iterate(call.runtime(), call[0])) {
    row.push_back(std::move(item));
    if (static_cast<std::int64_t>(row.size()) < count) continue;
    result.push_back(call.runtime().list(std::exchange(row, {})));
  }
  if (!row.empty()) {
    if (call.has_value(2)) row.resize(static_cast<std::size_t>(count), call[2]);
    result.push_back(call.runtime().list(std::move(row)));
  }
  return call.runtime().list(std::move(result));
}

// `count` lists of about equal size; the shorter ones are padded with the second argument if given.
Value filter_slice(const Call& call) {
  const std::int64_t count = call.integer(1, 0);
  if (count < 1 || count > kMaxRange)
    fail_here("slice() needs a count in [1, {}], got {}", kMaxRange, count);
  const auto items = iterate(call.runtime(), call[0]);
  const std::size_t slices = static_cast<std::size_t>(count);
  const std::size_t least = items.size() / slices;
  const std::size_t longer = items.size() % slices;
  std::vector<Value> result;
  auto next = items.begin();
  for (std::size_t i = 0; i < slices; ++i) {
    const std::size_t size = least + (i < longer ? 1 : 0);
    std::vector<Value> row(next, next + static_cast<std::ptrdiff_t>(size));
    next += static_cast<std::ptrdiff_t>(size);
    if (call.has_value(2) && longer != 0 && i >= longer) row.push_back(call[2]);
    result.push_back(call.runtime().list(std::move(row)));
  }
  return call.runtime().list(std::move(result));
}

constexpr auto kFilters = std::to_array<Builtin>({
    {"list", "value", filter_list},
    {"first", "seq", filter_first},
    {"last", "seq", filter_last},
    {"reverse", "value", filter_reverse},
    {"join", "value d? attribute?", filter_join},
    {"items", "value", filter_items},
    {"attr", "obj name", filter_attr},
    {"map", "value *", filter_map},
    {"select", "value *", filter_select},
    {"reject", "value *", filter_reject},
    {"selectattr", "value *", filter_selectattr},
    {"rejectattr", "value *", filter_rejectattr},
    {"batch", "value linecount fill_with?", filter_batch},
    {"slice", "value slices fill_with?", filter_slice},
});

}  // namespace

Value follow_path(Runtime& runtime, const Value& value, const Value& path) {
  if (path.is_int()) return get_item(runtime, value, path);
  if (!path.is_text())
    fail_here("an attribute must be a string or an integer, not '{}'", path.type_name());
  Value current = value;
  std::string_view rest = path.text().bytes();
  while (true) {
    runtime.budget().spend();
    const std::size_t dot = std::min(rest.find('.'), rest.size());
    const std::string_view part = rest.substr(0, dot);
    std::int64_t index = 0;
    const auto parsed = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool is_index =
        parsed.ec == std::errc{} && parsed.ptr == part.data() + part.size() && part.front() != '-';
    current = get_item(runtime, current, is_index ? Value(index) : Value(part));
    if (dot == rest.size()) return current;
    rest.remove_prefix(dot + 1);
  }
}

Value sort_key(Runtime& runtime, const Value& value, const Value& path, bool case_sensitive) {
  Value key = path.is_none() ? value : follow_path(runtime, value, path);
  if (case_sensitive || !key.is_text()) return key;
  runtime.budget().spend_text(key.text().size());
  return Value(Text::derived(key.text(), to_lower(key.text().bytes())));
}

std::span<const Builtin> sequence_filters() { return kFilters; }

}  // namespace tandem::jinja
