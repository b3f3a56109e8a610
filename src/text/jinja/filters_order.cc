// Filters that compare items with each other or add them up.
#include <algorithm>
#include <array>

#include "base/merge_sort.h"
#include "text/jinja/attribute_path.h"
#include "text/jinja/operators.h"
#include "text/jinja/runtime.h"

namespace tandem::jinja {
namespace {

struct Keyed {
  std::vector<Value> keys;
  Value item;
};

void sort_keyed(std::vector<Keyed>& items, bool reverse, Budget& budget) {
  const auto before = [&](const Keyed& a, const Keyed& b) {
    for (std::size_t i = 0; i < a.keys.size(); ++i)
      if (!equal(a.keys[i], b.keys[i], budget))
        return reverse ? less(b.keys[i], a.keys[i], budget) : less(a.keys[i], b.keys[i], budget);
    return false;
  };
  merge_sort(items, before);
}

Value items_of(Runtime& runtime, std::vector<Keyed> keyed) {
  std::vector<Value> result;
  for (Keyed& each : keyed) result.push_back(std::move(each.item));
  return runtime.list(std::move(result));
}

// "a,b" sorts by a, then by b.
std::vector<Value> paths_of(const Value& attribute) {
  std::vector<Value> result;
  if (!attribute.is_text()) return {attribute};
  std::string_view rest = attribute.text().bytes();
  while (true) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    result.emplace_back(rest.substr(0, comma));
    if (comma == rest.size()) return result;
    rest.remove_prefix(comma + 1);
  }
}

Value filter_sort(const Call& call) {
  const bool case_sensitive = call.flag(2, false);
  const auto paths = paths_of(call[3]);
  std::vector<Keyed> keyed;
  for (Value& item : iterate(call.runtime(), call[0])) {
    Keyed each{{}, std::move(item)};
    for (const Value& path : paths)
      each.keys.push_back(sort_key(call.runtime(), each.item, path, case_sensitive));
    keyed.push_back(std::move(each));
  }
  sort_keyed(keyed, call.flag(1, false), call.budget());
  return items_of(call.runtime(), std::move(keyed));
}

Value filter_dictsort(const Call& call) {
  if (!call[0].is_dict()) fail_here("dictsort() needs a mapping, got '{}'", call[0].type_name());
  const bool case_sensitive = call.flag(1, false);
  const std::string by = call.has(2) ? call.string(2).bytes() : "key";
  if (by != "key" && by != "value") fail_here("dictsort() sorts by 'key' or 'value', got '{}'", by);
  std::vector<Keyed> keyed;
  for (const auto& [key, value] : call[0].dict().entries())
    keyed.push_back({{sort_key(call.runtime(), by == "key" ? key : value, Value(), case_sensitive)},
                     make_tuple(call.budget(), {key, value})});
  sort_keyed(keyed, call.flag(3, false), call.budget());
  return items_of(call.runtime(), std::move(keyed));
}

// The first item that no other item precedes.
Value extreme(const Call& call, bool largest) {
  const auto items = iterate(call.runtime(), call[0]);
  if (items.empty()) return Value::undefined("no item, sequence was empty");
  const bool case_sensitive = call.flag(1, false);
  std::size_t best = 0;
  Value best_key = sort_key(call.runtime(), items[0], call[2], case_sensitive);
  for (std::size_t i = 1; i < items.size(); ++i) {
    Value key = sort_key(call.runtime(), items[i], call[2], case_sensitive);
    if (largest ? !less(best_key, key, call.budget()) : !less(key, best_key, call.budget()))
      continue;
    best = i;
    best_key = std::move(key);
  }
  return items[best];
}

Value filter_min(const Call& call) { return extreme(call, false); }
Value filter_max(const Call& call) { return extreme(call, true); }

Value filter_sum(const Call& call) {
  Value total = call.has(2) ? call[2] : Value(std::int64_t{0});
  for (const Value& item : iterate(call.runtime(), call[0])) {
    const Value value = call.has_value(1) ? follow_path(call.runtime(), item, call[1]) : item;
    if (value.is_text() || total.is_text()) fail_here("sum() can't sum strings");
    total = binary(call.runtime(), BinaryOp::kAdd, total, value);
  }
  return total;
}

Value filter_unique(const Call& call) {
  const bool case_sensitive = call.flag(1, false);
  Dict seen;
  std::vector<Value> result;
  for (Value& item : iterate(call.runtime(), call[0])) {
    Value key = sort_key(call.runtime(), item, call[2], case_sensitive);
    if (seen.find(key, call.budget()) != nullptr) continue;
    seen.set(call.budget(), std::move(key), Value());
    result.push_back(std::move(item));
  }
  return call.runtime().list(std::move(result));
}

// Pairs of (value of the attribute, items that have it), sorted by the value.
Value filter_groupby(const Call& call) {
  const bool case_sensitive = call.flag(3, false);
  const auto attribute_of = [&](const Value& item) {
    Value value = follow_path(call.runtime(), item, call[1]);
    return value.is_undefined() && call.has_value(2) ? call[2] : value;
  };
  std::vector<Keyed> keyed;
  for (Value& item : iterate(call.runtime(), call[0])) {
    Value key = sort_key(call.runtime(), attribute_of(item), Value(), case_sensitive);
    keyed.push_back({{std::move(key)}, std::move(item)});
  }
  sort_keyed(keyed, false, call.budget());
  std::vector<Value> result;
  for (std::size_t i = 0; i < keyed.size();) {
    const Value name = attribute_of(keyed[i].item);
    const Value key = keyed[i].keys[0];
    std::vector<Value> group;
    for (; i < keyed.size() && equal(keyed[i].keys[0], key, call.budget()); ++i)
      group.push_back(std::move(keyed[i].item));
    Value items = call.runtime().list(std::move(group));
    result.push_back(make_tuple(call.budget(), {name, std::move(items)}, true));
  }
  return call.runtime().list(std::move(result));
}

constexpr auto kFilters = std::to_array<Builtin>({
    {"sort", "value reverse? case_sensitive? attribute?", filter_sort},
    {"dictsort", "value case_sensitive? by? reverse?", filter_dictsort},
    {"min", "value case_sensitive? attribute?", filter_min},
    {"max", "value case_sensitive? attribute?", filter_max},
    {"sum", "iterable attribute? start?", filter_sum},
    {"unique", "value case_sensitive? attribute?", filter_unique},
    {"groupby", "value attribute default? case_sensitive?", filter_groupby},
});

}  // namespace

std::span<const Builtin> order_filters() { return kFilters; }

}  // namespace tandem::jinja
