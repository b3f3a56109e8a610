// Methods of dictionaries and lists that don't modify them.
#include <array>

#include "text/jinja/operators.h"
#include "text/jinja/runtime.h"

namespace tandem::jinja {
namespace {

Value dict_get(const Call& call) {
  const Value* found = call[0].dict().find(call[1], call.budget());
  return found != nullptr ? *found : call[2];
}

Value dict_keys(const Call& call) { return call.runtime().list(iterate(call.runtime(), call[0])); }

Value dict_values(const Call& call) {
  std::vector<Value> result;
  for (const auto& [key, value] : call[0].dict().entries()) result.push_back(value);
  return call.runtime().list(std::move(result));
}

Value dict_items(const Call& call) {
  std::vector<Value> result;
  for (const auto& [key, value] : call[0].dict().entries())
    result.push_back(make_tuple(call.budget(), {key, value}));
  return call.runtime().list(std::move(result));
}

// Values are immutable, so a value is its own copy.
Value copy(const Call& call) { return call[0]; }

Value list_index(const Call& call) {
  const auto& items = call[0].list().items;
  for (std::size_t i = 0; i < items.size(); ++i)
    if (equal(items[i], call[1], call.budget())) return Value(static_cast<std::int64_t>(i));
  fail_here("the value is not in the {}", call[0].type_name());
}

Value list_count(const Call& call) {
  std::int64_t count = 0;
  for (const Value& item : call[0].list().items)
    count += equal(item, call[1], call.budget()) ? 1 : 0;
  return Value(count);
}

constexpr auto kDictMethods = std::to_array<Builtin>({
    {"get", "self key default?", dict_get},
    {"keys", "self", dict_keys},
    {"values", "self", dict_values},
    {"items", "self", dict_items},
    {"copy", "self", copy},
});

constexpr auto kListMethods = std::to_array<Builtin>({
    {"index", "self value", list_index},
    {"count", "self value", list_count},
    {"copy", "self", copy},
});

}  // namespace

std::span<const Builtin> dict_methods() { return kDictMethods; }
std::span<const Builtin> list_methods() { return kListMethods; }

}  // namespace tandem::jinja
