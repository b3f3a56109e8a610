// Constructing values, and the keys of dictionaries.
#include "text/jinja/value.h"

#include <algorithm>
#include <cmath>

#include "text/jinja/big_integer.h"

namespace tandem::jinja {
namespace {

// Smaller dictionaries are searched linearly.
constexpr std::size_t kIndexedSize = 9;

// Approximate sizes in units of work, so that the budget bounds memory as well.
constexpr std::size_t kItemWork = 2;
constexpr std::size_t kEntryWork = 8;

int deeper(int depth, int inner) {
  const int result = std::max(depth, inner + 1);
  if (result > kMaxValueDepth) fail_here("lists are nested more than {} deep", kMaxValueDepth);
  return result;
}

Value list_of(Budget& budget, std::vector<Value> items, bool is_tuple, bool is_group) {
  budget.spend(1 + kItemWork * items.size());
  List list{std::move(items), is_tuple, is_group};
  for (const Value& item : list.items) list.depth = deeper(list.depth, item.depth());
  return Value(std::make_shared<const List>(std::move(list)));
}

// Appends a string that is equal for equal keys, and only for those.
void append_key(std::string& out, const Value& key, Budget& budget) {
  budget.spend_bytes(out.size());
  if (key.is_text()) {
    out += fmt::format("s{}:", key.text().size());
    out += key.text().bytes();
  } else if (key.is_integral()) {
    out += fmt::format("i{};", print_integer(key));
  } else if (key.is_float()) {
    const double number = key.number();
    if (std::isfinite(number) && number == std::floor(number))
      out += fmt::format("i{};", print_integer(truncate_to_integer(number)));
    else
      out += fmt::format("f{};", number);
  } else if (key.is_none()) {
    out += "n;";
  } else if (key.is_list() && key.list().is_tuple) {
    out += fmt::format("t{}:", key.list().items.size());
    for (const Value& item : key.list().items) append_key(out, item, budget);
  } else if (key.is_object()) {
    out += fmt::format("o{};", key.address());
  } else if (key.is_undefined()) {
    fail_here("{}", key.undefined_message());
  } else {
    fail_here("unhashable type: '{}'", key.type_name());
  }
}

}  // namespace

Value Value::undefined(std::string message) {
  Value value;
  value.data_ = Undefined{std::make_shared<const std::string>(std::move(message))};
  return value;
}

const void* Value::address() const noexcept {
  if (is_text()) return std::get<std::shared_ptr<const Text>>(data_).get();
  if (is_list()) return std::get<std::shared_ptr<const List>>(data_).get();
  if (is_dict()) return std::get<std::shared_ptr<const Dict>>(data_).get();
  if (is_object()) return std::get<std::shared_ptr<Object>>(data_).get();
  return nullptr;
}

int Value::depth() const noexcept {
  if (is_list()) return list().depth;
  if (is_dict()) return dict().depth();
  if (is_object()) return object().depth();
  return 0;
}

std::string Value::type_name() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (is_int()) return "int";
  if (is_float()) return "float";
  if (is_text()) return "str";
  if (is_list()) return list().is_tuple ? "tuple" : "list";
  if (is_dict()) return "dict";
  return object().type_name();
}

Value make_list(Budget& budget, std::vector<Value> items) {
  return list_of(budget, std::move(items), false, false);
}

Value make_tuple(Budget& budget, std::vector<Value> items, bool is_group) {
  return list_of(budget, std::move(items), true, is_group);
}

Value make_text(Budget& budget, Text text) {
  budget.spend_text(text.size());
  return Value(std::move(text));
}

const Value* Dict::find(const Value& key, Budget& budget) const {
  if (key.is_text()) return find(key.text().bytes());
  std::string canonical;
  append_key(canonical, key, budget);
  const auto found = index_.find(canonical);
  return found == index_.end() ? nullptr : &entries_[found->second].second;
}

const Value* Dict::find(std::string_view key) const {
  if (entries_.size() < kIndexedSize) {
    for (const auto& [name, value] : entries_)
      if (name.is_text() && name.text().bytes() == key) return &value;
    return nullptr;
  }
  const auto found = index_.find(fmt::format("s{}:{}", key.size(), key));
  return found == index_.end() ? nullptr : &entries_[found->second].second;
}

void Dict::set(Budget& budget, Value key, Value value) {
  budget.spend(kEntryWork);
  depth_ = deeper(depth_, std::max(key.depth(), value.depth()));
  std::string canonical;
  append_key(canonical, key, budget);
  const auto [place, is_new] = index_.try_emplace(std::move(canonical), entries_.size());
  if (is_new)
    entries_.emplace_back(std::move(key), std::move(value));
  else
    entries_[place->second].second = std::move(value);
}

Value make_dict(Dict dict) { return Value(std::make_shared<const Dict>(std::move(dict))); }

Value Object::call(Runtime&, Arguments) { fail_here("'{}' object is not callable", type_name()); }

std::optional<Value> Namespace::attribute(std::string_view name) {
  for (const auto& [key, value] : values_)
    if (key == name) return value;
  return std::nullopt;
}

void Namespace::set(std::string_view name, Value value) {
  for (auto& [key, old] : values_) {
    if (key != name) continue;
    old = std::move(value);
    return;
  }
  values_.emplace_back(name, std::move(value));
}

}  // namespace tandem::jinja
