// Attributes, items, slices and iteration.
#include <algorithm>

#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/unicode.h"

namespace tandem::jinja {
namespace {

[[noreturn]] void fail_undefined(const Value& value) { fail_here("{}", value.undefined_message()); }

// Methods that would modify a list or dictionary; transformers' sandbox refuses them, too.
bool changes_value(const Value& value, std::string_view name) {
  const auto is_any = [&](std::initializer_list<std::string_view> names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (value.is_list() && !value.list().is_tuple)
    return is_any({"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"});
  if (value.is_dict()) return is_any({"clear", "pop", "popitem", "setdefault", "update"});
  return false;
}

std::optional<Value> own_attribute(const Value& value, std::string_view name) {
  if (value.is_object()) return value.object().attribute(name);
  if (changes_value(value, name))
    fail_here("a chat template can't change a {} with .{}()", value.type_name(), name);
  if (value.is_list() && value.list().is_group && value.list().items.size() == 2) {
    if (name == "grouper") return value.list().items[0];
    if (name == "list") return value.list().items[1];
  }
  const Builtin* method = value.is_text()   ? find_builtin(string_methods(), name)
                          : value.is_dict() ? find_builtin(dict_methods(), name)
                          : value.is_list() ? find_builtin(list_methods(), name)
                                            : nullptr;
  if (method != nullptr) return make_method(value, *method);
  return std::nullopt;
}

std::optional<Value> own_item(Runtime& runtime, const Value& value, const Value& key) {
  if (value.is_dict()) {
    const bool hashable =
        !key.is_undefined() && !key.is_dict() && !(key.is_list() && !key.list().is_tuple);
    const Value* found = hashable ? value.dict().find(key, runtime.budget()) : nullptr;
    if (found != nullptr) return *found;
    return std::nullopt;
  }
  if (!key.is_integral() || (!value.is_list() && !value.is_text())) return std::nullopt;
  if (value.is_text()) runtime.budget().spend_bytes(value.text().size());
  const auto size = static_cast<std::int64_t>(length(value));
  std::int64_t index = key.integer();
  if (index < 0) index += size;
  if (index < 0 || index >= size) return std::nullopt;
  if (value.is_list()) return value.list().items[static_cast<std::size_t>(index)];
  const Text& text = value.text();
  const std::size_t begin = offset_of(text.bytes(), static_cast<std::size_t>(index));
  return Value(text.slice(begin, begin + decode_at(text.bytes(), begin).size));
}

std::int64_t slice_bound(const Value& bound, std::int64_t fallback, std::int64_t size,
                         std::int64_t low, std::int64_t high) {
  if (bound.is_none()) return fallback;
  if (bound.is_undefined()) fail_undefined(bound);
  if (!bound.is_integral())
    fail_here("slice indices must be integers, got '{}'", bound.type_name());
  std::int64_t value = bound.integer();
  if (value < 0) value = value < -size ? low : value + size;
  return std::clamp(value, low, high);
}

// The indices of the items that a slice selects from `size` items, in order.
std::vector<std::size_t> slice_indices(Runtime& runtime, std::int64_t size, const Value& start,
                                       const Value& stop, const Value& step) {
  if (!step.is_none() && !step.is_integral()) fail_here("slice step must be an integer");
  const std::int64_t stride = step.is_none() ? 1 : step.integer();
  if (stride == 0) fail_here("slice step cannot be zero");
  const std::int64_t low = stride > 0 ? 0 : -1;
  const std::int64_t high = stride > 0 ? size : size - 1;
  const std::int64_t first = slice_bound(start, stride > 0 ? low : high, size, low, high);
  const std::int64_t last = slice_bound(stop, stride > 0 ? high : low, size, low, high);
  std::vector<std::size_t> result;
  for (std::int64_t i = first; stride > 0 ? i < last : i > last;) {
    runtime.budget().spend();
    result.push_back(static_cast<std::size_t>(i));
    if (__builtin_add_overflow(i, stride, &i)) break;
  }
  return result;
}

// Byte offsets of the characters of a text, and its size.
std::vector<std::size_t> offsets(Runtime& runtime, std::string_view text) {
  runtime.budget().spend(1 + text.size() / 2);
  std::vector<std::size_t> result;
  for (std::size_t i = 0; i < text.size(); i += decode_at(text, i).size) result.push_back(i);
  result.push_back(text.size());
  return result;
}

Value slice_text(Runtime& runtime, const Text& text, const Value& start, const Value& stop,
                 const Value& step) {
  const std::string& bytes = text.bytes();
  runtime.budget().spend_text(bytes.size());
  if (step.is_none() ||
      (step.is_int() && step.integer() == 1)) {  // no need to know every character's place
    const auto size = static_cast<std::int64_t>(count_code_points(bytes));
    const std::int64_t first = slice_bound(start, 0, size, 0, size);
    const std::int64_t last = slice_bound(stop, size, size, 0, size);
    if (first >= last) return Value(Text());
    const std::size_t begin = offset_of(bytes, static_cast<std::size_t>(first));
    const std::size_t count = static_cast<std::size_t>(last - first);
    return Value(
        text.slice(begin, begin + offset_of(std::string_view(bytes).substr(begin), count)));
  }
  const auto places = offsets(runtime, bytes);
  Text result;
  for (const std::size_t i :
       slice_indices(runtime, static_cast<std::int64_t>(places.size()) - 1, start, stop, step))
    result.append(text, places[i], places[i + 1]);
  return Value(std::move(result));
}

}  // namespace

Value get_attribute(Runtime& runtime, const Value& value, std::string_view name) {
  if (value.is_undefined()) fail_undefined(value);
  if (auto found = own_attribute(value, name)) return *found;
  if (value.is_dict())
    if (const Value* found = value.dict().find(name)) return *found;
  runtime.budget().spend();
  if (value.is_none()) return Value::undefined(fmt::format("'None' has no attribute '{}'", name));
  return Value::undefined(
      fmt::format("'{} object' has no attribute '{}'", value.type_name(), name));
}

Value get_item(Runtime& runtime, const Value& value, const Value& key) {
  if (value.is_undefined()) fail_undefined(value);
  if (auto found = own_item(runtime, value, key)) return *found;
  if (key.is_text()) {
    const std::string& name = key.text().bytes();
    if (auto found = own_attribute(value, name)) return *found;
    return Value::undefined(
        fmt::format("'{} object' has no attribute '{}'", value.type_name(), name));
  }
  return Value::undefined(fmt::format("{} object has no element {}", value.type_name(),
                                      print_repr(key, runtime.budget()).bytes()));
}

Value get_slice(Runtime& runtime, const Value& value, const Value& start, const Value& stop,
                const Value& step) {
  if (value.is_undefined()) fail_undefined(value);
  if (value.is_text()) return slice_text(runtime, value.text(), start, stop, step);
  if (!value.is_list())
    return Value::undefined(fmt::format("{} object has no slices", value.type_name()));
  const List& list = value.list();
  std::vector<Value> items;
  for (const std::size_t i :
       slice_indices(runtime, static_cast<std::int64_t>(list.items.size()), start, stop, step))
    items.push_back(list.items[i]);
  return list.is_tuple ? make_tuple(runtime.budget(), std::move(items))
                       : runtime.list(std::move(items));
}

std::vector<Value> iterate(Runtime& runtime, const Value& value) {
  std::vector<Value> result;
  if (value.is_undefined()) return result;
  if (value.is_list()) {
    runtime.budget().spend(value.list().items.size());
    return value.list().items;
  }
  if (value.is_dict()) {
    runtime.budget().spend(value.dict().entries().size());
    for (const auto& [key, item] : value.dict().entries()) result.push_back(key);
    return result;
  }
  if (value.is_text()) {
    const auto places = offsets(runtime, value.text().bytes());
    runtime.budget().spend(kBytesPerWork *
                           places.size());  // each character becomes a string of its own
    for (std::size_t i = 0; i + 1 < places.size(); ++i)
      result.emplace_back(value.text().slice(places[i], places[i + 1]));
    return result;
  }
  fail_here("'{}' object is not iterable", value.type_name());
}

}  // namespace tandem::jinja
