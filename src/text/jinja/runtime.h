// What built-in functions can access of a rendering, and how arguments are passed to them.
#pragma once

#include <ctime>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/value.h"

namespace tandem::jinja {

// The state of one rendering apart from scopes.
class Runtime {
 public:
  Runtime(std::tm now, std::int64_t max_work) : budget_(max_work), now_(now) {}
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  Budget& budget() noexcept { return budget_; }
  const std::tm& now() const noexcept { return now_; }
  // Namespaces may contain themselves, so the rendering owns them and empties them at the end.
  Value new_namespace(std::shared_ptr<Namespace> created);

  Value text(Text text) { return make_text(budget_, std::move(text)); }
  Value list(std::vector<Value> items) { return make_list(budget_, std::move(items)); }

  // RAII: counts one level of evaluator recursion; throws at the limit.
  class Depth {
   public:
    explicit Depth(Runtime& runtime);
    ~Depth() { --runtime_.depth_; }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;

   private:
    Runtime& runtime_;
  };

 private:
  Budget budget_;
  std::tm now_;
  int depth_ = 0;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

// The arguments of a built-in, bound to its parameters, which are given as "value chars? *": names
// in order, "?" for optional ones, "*" at the end if more may follow.
class Call {
 public:
  Call(Runtime& runtime, std::string_view function, std::string_view parameters,
       Arguments arguments);

  Runtime& runtime() const noexcept { return runtime_; }
  Budget& budget() const noexcept { return runtime_.budget(); }
  std::string_view function() const noexcept { return function_; }

  bool has(std::size_t index) const noexcept { return present_[index]; }
  // None if missing.
  const Value& operator[](std::size_t index) const { return bound_[index]; }
  bool has_value(std::size_t index) const { return present_[index] && !bound_[index].is_none(); }
  // `fallback` if missing or None.
  std::int64_t integer(std::size_t index, std::int64_t fallback) const;
  bool flag(std::size_t index, bool fallback) const;
  // Converted to a string, so any value is accepted.
  Text text(std::size_t index) const;
  // An error unless it is a string.
  const Text& string(std::size_t index) const;

  const std::vector<Value>& more() const noexcept { return more_; }
  const std::vector<std::pair<std::string, Value>>& more_named() const noexcept {
    return more_named_;
  }

 private:
  Runtime& runtime_;
  std::string_view function_;
  std::vector<Value> bound_;
  std::vector<char> present_;
  std::vector<Value> more_;
  std::vector<std::pair<std::string, Value>> more_named_;
};

struct Builtin {
  std::string_view name;
  std::string_view parameters;
  Value (*run)(const Call& call);
};

// The built-in with that name in a table, or null.
const Builtin* find_builtin(std::span<const Builtin> table, std::string_view name);
Value call_builtin(Runtime& runtime, const Builtin& builtin, Arguments arguments);

// The tables of built-ins: filters are in filters_*.cc, methods in methods_string.cc (strings) and
// methods.cc (dictionaries and lists), tests in tests.cc, functions in globals.cc.
std::span<const Builtin> text_filters();
std::span<const Builtin> number_filters();
std::span<const Builtin> sequence_filters();
std::span<const Builtin> order_filters();
std::span<const Builtin> tests();
std::span<const Builtin> string_methods();
std::span<const Builtin> dict_methods();
std::span<const Builtin> list_methods();
std::span<const Builtin> globals();

const Builtin* find_filter(std::string_view name);
Value apply_filter(Runtime& runtime, std::string_view name, Arguments arguments);
bool apply_test(Runtime& runtime, std::string_view name, Arguments arguments);
Value call_value(Runtime& runtime, const Value& callee, Arguments arguments);

// A built-in as a value, bound to the object it is a method of, if any.
Value make_function(const Builtin& builtin);
Value make_method(const Value& self, const Builtin& builtin);

}  // namespace tandem::jinja
