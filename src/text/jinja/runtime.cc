// Binding of arguments, and looking up and calling built-ins.
#include "text/jinja/runtime.h"

#include <algorithm>
#include <array>

#include "text/jinja/operators.h"
#include "text/jinja/print.h"

namespace tandem::jinja {
namespace {

class Function : public Object {
 public:
  explicit Function(const Builtin& builtin) : builtin_(builtin) {}
  std::string type_name() const override { return "builtin_function_or_method"; }
  bool callable() const override { return true; }
  Value call(Runtime& runtime, Arguments arguments) override {
    return call_builtin(runtime, builtin_, std::move(arguments));
  }

 private:
  const Builtin& builtin_;
};

class Method : public Object {
 public:
  Method(Value self, const Builtin& builtin) : self_(std::move(self)), builtin_(builtin) {
    if (self_.depth() >= kMaxValueDepth)
      fail_here("lists are nested more than {} deep", kMaxValueDepth);
  }
  std::string type_name() const override { return "builtin_function_or_method"; }
  bool callable() const override { return true; }
  int depth() const noexcept override { return self_.depth() + 1; }
  Value call(Runtime& runtime, Arguments arguments) override {
    arguments.positional.insert(arguments.positional.begin(), self_);
    return call_builtin(runtime, builtin_, std::move(arguments));
  }

 private:
  Value self_;
  const Builtin& builtin_;
};

}  // namespace

Runtime::~Runtime() {
  for (const auto& each : namespaces_) each->clear();
}

Value Runtime::new_namespace(std::shared_ptr<Namespace> created) {
  namespaces_.push_back(created);
  return Value(std::shared_ptr<Object>(std::move(created)));
}

Runtime::Depth::Depth(Runtime& runtime) : runtime_(runtime) {
  if (runtime_.depth_ >= kMaxEvaluationDepth)
    fail_here("the template calls itself too deep, limit {} nested steps", kMaxEvaluationDepth);
  ++runtime_.depth_;
}

Call::Call(Runtime& runtime, std::string_view function, std::string_view parameters,
           Arguments arguments)
    : runtime_(runtime), function_(function) {
  auto& positional = arguments.positional;
  auto& named = arguments.named;
  std::size_t used = 0;
  bool open = false;
  while (!parameters.empty()) {
    const std::size_t space = std::min(parameters.find(' '), parameters.size());
    std::string_view name = parameters.substr(0, space);
    parameters.remove_prefix(std::min(space + 1, parameters.size()));
    if (name == "*") {
      open = true;
      break;
    }
    const bool optional = name.back() == '?';
    if (optional) name.remove_suffix(1);
    const auto by_name = std::find_if(named.begin(), named.end(),
                                      [&](const auto& argument) { return argument.first == name; });
    bool found = true;
    if (used < positional.size()) {
      bound_.push_back(std::move(positional[used++]));
    } else if (by_name != named.end()) {
      bound_.push_back(std::move(by_name->second));
      named.erase(by_name);
    } else {
      if (!optional) fail_here("{}() needs an argument '{}'", function, name);
      bound_.emplace_back();
      found = false;
    }
    present_.push_back(found);
  }
  if (!open && used < positional.size())
    fail_here("{}() takes at most {} arguments, got {}", function, bound_.size(),
              positional.size());
  if (!open && !named.empty())
    fail_here("{}() knows no argument '{}' here", function, named.front().first);
  more_.assign(std::make_move_iterator(positional.begin() + static_cast<std::ptrdiff_t>(used)),
               std::make_move_iterator(positional.end()));
  more_named_ = std::move(named);
}

std::int64_t Call::integer(std::size_t index, std::int64_t fallback) const {
  if (!has_value(index)) return fallback;
  const Value& value = bound_[index];
  if (!value.is_integral())
    fail_here("{}() needs an integer, got '{}'", function_, value.type_name());
  return value.integer();
}

bool Call::flag(std::size_t index, bool fallback) const {
  return has(index) ? is_true(bound_[index]) : fallback;
}

Text Call::text(std::size_t index) const { return print(bound_[index], budget()); }

const Text& Call::string(std::size_t index) const {
  const Value& value = bound_[index];
  if (value.is_undefined()) fail_here("{}", value.undefined_message());
  if (!value.is_text()) fail_here("{}() needs a string, got '{}'", function_, value.type_name());
  return value.text();
}

const Builtin* find_builtin(std::span<const Builtin> table, std::string_view name) {
  const auto found =
      std::find_if(table.begin(), table.end(), [&](const Builtin& b) { return b.name == name; });
  return found == table.end() ? nullptr : &*found;
}

Value call_builtin(Runtime& runtime, const Builtin& builtin, Arguments arguments) {
  runtime.budget().spend(2);
  const Call call(runtime, builtin.name, builtin.parameters, std::move(arguments));
  return builtin.run(call);
}

const Builtin* find_filter(std::string_view name) {
  for (const auto table : {text_filters(), sequence_filters(), order_filters(), number_filters()})
    if (const Builtin* found = find_builtin(table, name)) return found;
  return nullptr;
}

Value apply_filter(Runtime& runtime, std::string_view name, Arguments arguments) {
  const Runtime::Depth depth(runtime);
  const Builtin* filter = find_filter(name);
  if (filter == nullptr) fail_here("no filter is named '{}'", name);
  return call_builtin(runtime, *filter, std::move(arguments));
}

bool apply_test(Runtime& runtime, std::string_view name, Arguments arguments) {
  const Runtime::Depth depth(runtime);
  const Builtin* test = find_builtin(tests(), name);
  if (test == nullptr) fail_here("no test is named '{}'", name);
  return is_true(call_builtin(runtime, *test, std::move(arguments)));
}

Value call_value(Runtime& runtime, const Value& callee, Arguments arguments) {
  if (callee.is_undefined()) fail_here("{}", callee.undefined_message());
  if (!callee.is_object()) fail_here("'{}' object is not callable", callee.type_name());
  const Runtime::Depth depth(runtime);
  const std::shared_ptr<Object> alive = callee.shared_object();
  return alive->call(runtime, std::move(arguments));
}

Value make_function(const Builtin& builtin) {
  return Value(std::shared_ptr<Object>(std::make_shared<Function>(builtin)));
}

Value make_method(const Value& self, const Builtin& builtin) {
  return Value(std::shared_ptr<Object>(std::make_shared<Method>(self, builtin)));
}

}  // namespace tandem::jinja
