// The values of templates: the Python types that JSON has, tuples, Jinja's undefined, and objects
// with methods. Lists and dictionaries are immutable once made, as in transformers' sandbox, so
// values form no cycles; mutable state (namespaces, scopes) is owned by the rendering.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "text/jinja/budget.h"
#include "text/jinja/text.h"

namespace tandem::jinja {

class BigInteger;
class Dict;
class Object;
struct List;

struct Undefined {
  // Such as "'tools' is undefined".
  std::shared_ptr<const std::string> message;
};
struct None {};

class Value {
 public:
  Value() : data_(None{}) {}
  template <std::same_as<bool> Bool>
  explicit Value(Bool value) : data_(value) {}
  explicit Value(std::int64_t value) : data_(value) {}
  // One that does not fit 64 bits (see big_integer.h).
  explicit Value(std::shared_ptr<const BigInteger> value) : data_(std::move(value)) {}
  explicit Value(double value) : data_(value) {}
  explicit Value(Text text) : data_(std::make_shared<const Text>(std::move(text))) {}
  explicit Value(std::string_view text) : Value(Text(std::string(text))) {}
  explicit Value(std::shared_ptr<const List> list) : data_(std::move(list)) {}
  explicit Value(std::shared_ptr<const Dict> dict) : data_(std::move(dict)) {}
  explicit Value(std::shared_ptr<Object> object) : data_(std::move(object)) {}
  static Value undefined(std::string message);

  bool is_undefined() const noexcept { return holds<Undefined>(); }
  bool is_none() const noexcept { return holds<None>(); }
  bool is_bool() const noexcept { return holds<bool>(); }
  bool is_int() const noexcept { return holds<std::int64_t>() || is_big(); }
  bool is_big() const noexcept { return holds<std::shared_ptr<const BigInteger>>(); }
  bool is_float() const noexcept { return holds<double>(); }
  bool is_integral() const noexcept { return is_bool() || is_int(); }
  bool is_number() const noexcept { return is_integral() || is_float(); }
  bool is_text() const noexcept { return holds<std::shared_ptr<const Text>>(); }
  // Or a tuple.
  bool is_list() const noexcept { return holds<std::shared_ptr<const List>>(); }
  bool is_dict() const noexcept { return holds<std::shared_ptr<const Dict>>(); }
  bool is_object() const noexcept { return holds<std::shared_ptr<Object>>(); }

  // Each may only be called for a value of that kind.
  const std::string& undefined_message() const { return *std::get<Undefined>(data_).message; }
  bool boolean() const { return std::get<bool>(data_); }
  // The nearest one of 64 bits, which is what an index, a count or a width needs.
  std::int64_t integer() const {
    if (is_big()) return big_bound();
    return is_bool() ? boolean() : std::get<std::int64_t>(data_);
  }
  const BigInteger& big() const { return *std::get<std::shared_ptr<const BigInteger>>(data_); }
  // Fails for an integer beyond the range of floats, as Python does.
  double number() const {
    if (is_big()) return big_number();
    return is_float() ? std::get<double>(data_) : static_cast<double>(integer());
  }
  const Text& text() const { return *std::get<std::shared_ptr<const Text>>(data_); }
  const List& list() const { return *std::get<std::shared_ptr<const List>>(data_); }
  const Dict& dict() const { return *std::get<std::shared_ptr<const Dict>>(data_); }
  Object& object() const { return *std::get<std::shared_ptr<Object>>(data_); }
  const std::shared_ptr<Object>& shared_object() const {
    return std::get<std::shared_ptr<Object>>(data_);
  }

  std::size_t kind() const noexcept { return data_.index(); }
  // Address of the shared data; null for scalars.
  const void* address() const noexcept;
  // Nesting depth of lists, dictionaries and methods.
  int depth() const noexcept;
  // Python's name of the type: "str", "dict", "NoneType".
  std::string type_name() const;

 private:
  std::int64_t big_bound() const;
  double big_number() const;

  template <typename T>
  bool holds() const noexcept {
    return std::holds_alternative<T>(data_);
  }

  std::variant<Undefined, None, bool, std::int64_t, double, std::shared_ptr<const Text>,
               std::shared_ptr<const List>, std::shared_ptr<const Dict>, std::shared_ptr<Object>,
               std::shared_ptr<const BigInteger>>
      data_;
};

struct List {
  std::vector<Value> items;
  bool is_tuple = false;
  // A tuple returned by the filter groupby, whose two items have names.
  bool is_group = false;
  int depth = 1;
};

Value make_list(Budget& budget, std::vector<Value> items);
Value make_tuple(Budget& budget, std::vector<Value> items, bool is_group = false);
Value make_text(Budget& budget, Text text);

// In insertion order. Keys compare as in Python: 1, 1.0 and True are the same key.
class Dict {
 public:
  using Entry = std::pair<Value, Value>;

  const std::vector<Entry>& entries() const noexcept { return entries_; }
  // Null if missing.
  const Value* find(const Value& key, Budget& budget) const;
  const Value* find(std::string_view key) const;
  // Only during construction.
  void set(Budget& budget, Value key, Value value);
  int depth() const noexcept { return depth_; }

 private:
  std::vector<Entry> entries_;
  std::unordered_map<std::string, std::size_t> index_;
  int depth_ = 1;
};

Value make_dict(Dict dict);

// The arguments of a call.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

class Runtime;

// An object with attributes, or one that can be called: macros, methods, loop, namespaces.
class Object {
 public:
  virtual ~Object() = default;
  virtual std::string type_name() const = 0;
  virtual std::string repr() const { return "<" + type_name() + ">"; }
  virtual std::optional<Value> attribute(std::string_view) { return std::nullopt; }
  virtual bool callable() const { return false; }
  virtual Value call(Runtime& runtime, Arguments arguments);
  virtual int depth() const noexcept { return 1; }
};

class Namespace : public Object {
 public:
  std::string type_name() const override { return "Namespace"; }
  std::optional<Value> attribute(std::string_view name) override;
  void set(std::string_view name, Value value);
  void clear() { values_.clear(); }

 private:
  std::vector<std::pair<std::string, Value>> values_;
};

}  // namespace tandem::jinja
