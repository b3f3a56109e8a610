// Executes statements, loops and macros.
#include <algorithm>
#include <functional>

#include "text/jinja/evaluator.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"

namespace tandem::jinja {
namespace {

// In units of work, because macros and their scopes live until the end of the rendering.
constexpr std::size_t kMacroWork = 32;

class Macro : public Object {
 public:
  Macro(Evaluator& evaluator, std::shared_ptr<const MacroDefinition> definition,
        std::shared_ptr<Scope> scope)
      : evaluator_(evaluator), definition_(std::move(definition)), scope_(std::move(scope)) {}
  std::string type_name() const override { return "Macro"; }
  std::string repr() const override { return fmt::format("<Macro '{}'>", definition_->name); }
  bool callable() const override { return true; }
  std::optional<Value> attribute(std::string_view name) override {
    if (name == "name") return Value(std::string_view(definition_->name));
    return std::nullopt;
  }
  Value call(Runtime&, Arguments arguments) override {
    return evaluator_.call_macro(*definition_, scope_, std::move(arguments));
  }

 private:
  Evaluator& evaluator_;
  std::shared_ptr<const MacroDefinition> definition_;
  std::shared_ptr<Scope> scope_;
};

class LoopMethod : public Object {
 public:
  using Run = std::function<Value(Runtime&, Arguments)>;
  explicit LoopMethod(Run run) : run_(std::move(run)) {}
  std::string type_name() const override { return "method"; }
  bool callable() const override { return true; }
  Value call(Runtime& runtime, Arguments arguments) override {
    return run_(runtime, std::move(arguments));
  }

 private:
  Run run_;
};

// The variable "loop". Once the loop has ended only its counters remain, because the object may
// outlive the loop in a namespace that the loop's scope holds.
class Loop : public Object, public std::enable_shared_from_this<Loop> {
 public:
  Loop(Evaluator& evaluator, const ForStatement& statement, std::shared_ptr<Scope> scope,
       std::vector<Value> items, int depth)
      : evaluator_(evaluator),
        statement_(statement),
        scope_(std::move(scope)),
        items_(std::move(items)),
        size_(static_cast<std::int64_t>(items_.size())),
        depth_(depth) {}

  std::string type_name() const override { return "LoopContext"; }
  bool callable() const override { return statement_.recursive; }
  const std::vector<Value>& items() const { return items_; }
  void move_to(std::size_t index) { index_ = static_cast<std::int64_t>(index); }
  void end() {
    ended_ = true;
    items_.clear();
    last_ = Value();
    scope_.reset();
  }

  std::optional<Value> attribute(std::string_view name) override {
    if (name == "index") return Value(index_ + 1);
    if (name == "index0") return Value(index_);
    if (name == "revindex") return Value(size_ - index_);
    if (name == "revindex0") return Value(size_ - index_ - 1);
    if (name == "first") return Value(index_ == 0);
    if (name == "last") return Value(index_ + 1 == size_);
    if (name == "length") return Value(size_);
    if (name == "depth") return Value(std::int64_t{depth_} + 1);
    if (name == "depth0") return Value(std::int64_t{depth_});
    if (name == "previtem") return neighbour(-1, "there is no previous item");
    if (name == "nextitem") return neighbour(1, "there is no next item");
    if (name == "cycle") return method(&Loop::cycle);
    if (name == "changed") return method(&Loop::changed);
    return std::nullopt;
  }

  Value call(Runtime&, Arguments arguments) override {
    if (!statement_.recursive || ended_)
      fail_here("the loop must be marked 'recursive' to be called");
    if (arguments.positional.size() != 1 || !arguments.named.empty())
      fail_here("loop() takes one argument");
    return evaluator_.run_recursively(statement_, scope_, arguments.positional[0], depth_ + 1);
  }

 private:
  Value neighbour(std::int64_t step, const char* missing) const {
    const std::int64_t at = index_ + step;
    if (at < 0 || at >= static_cast<std::int64_t>(items_.size())) return Value::undefined(missing);
    return items_[static_cast<std::size_t>(at)];
  }

  Value method(Value (Loop::*run)(Runtime&, Arguments)) {
    auto self = shared_from_this();
    return Value(std::shared_ptr<Object>(
        std::make_shared<LoopMethod>([self, run](Runtime& runtime, Arguments arguments) {
          return ((*self).*run)(runtime, std::move(arguments));
        })));
  }

  Value cycle(Runtime&, Arguments arguments) {
    if (arguments.positional.empty()) fail_here("loop.cycle() needs items to cycle through");
    return arguments.positional[static_cast<std::size_t>(index_) % arguments.positional.size()];
  }

  Value changed(Runtime& runtime, Arguments arguments) {
    if (ended_) return Value(true);
    Value now = make_tuple(runtime.budget(), std::move(arguments.positional));
    const bool same = equal(now, last_, runtime.budget());
    last_ = std::move(now);
    return Value(!same);
  }

  Evaluator& evaluator_;
  const ForStatement& statement_;
  // The scope around the loop.
  std::shared_ptr<Scope> scope_;
  std::vector<Value> items_;
  std::int64_t size_;
  std::int64_t index_ = 0;
  int depth_;
  bool ended_ = false;
  Value last_;
};

}  // namespace

Text Evaluator::render(const Body& body) {
  Capture capture(*this);
  execute(body);
  return capture.take();
}

void Evaluator::write(const Text& text) {
  runtime_.budget().spend_bytes(text.size());
  if (output_->size() + text.size() > kMaxTextBytes)
    fail_here("more than {} bytes of output", kMaxTextBytes);
  output_->append(text);
}

Value Evaluator::capture(const Body& body) {
  const NewScope scope(*this);
  Capture capture(*this);
  execute(body);
  return Value(capture.take());
}

Evaluator::Flow Evaluator::execute(const Body& body) {
  for (const Statement& statement : body)
    if (const Flow flow = execute(statement); flow != Flow::kNext) return flow;
  return Flow::kNext;
}

Evaluator::Flow Evaluator::execute(const Statement& statement) {
  try {
    const Runtime::Depth depth(runtime_);
    runtime_.budget().spend();
    return std::visit([this](const auto& node) { return execute(node); }, statement.node);
  } catch (const Failure& failure) {
    fail_at(statement.place, failure);
  }
}

Evaluator::Flow Evaluator::execute(const TextStatement& node) {
  write(node.text);
  return Flow::kNext;
}

Evaluator::Flow Evaluator::execute(const OutputStatement& node) {
  const Value value = evaluate(*node.value);
  if (value.is_text())
    write(value.text());
  else
    write(print(value, runtime_.budget()));
  return Flow::kNext;
}

Evaluator::Flow Evaluator::execute(const SetStatement& node) {
  assign(node.target, evaluate(*node.value));
  return Flow::kNext;
}

Evaluator::Flow Evaluator::execute(const BlockSetStatement& node) {
  const Value body = capture(*node.body);
  assign(node.target, node.filter ? filter_body(*node.filter, body) : body);
  return Flow::kNext;
}

Evaluator::Flow Evaluator::execute(const IfStatement& node) {
  for (const auto& [condition, body] : node.branches)
    if (is_true(evaluate(*condition))) return execute(*body);
  return node.otherwise ? execute(*node.otherwise) : Flow::kNext;
}

Evaluator::Flow Evaluator::execute(const ForStatement& node) {
  run_loop(node, evaluate(*node.iterable), 0);
  return Flow::kNext;
}

void Evaluator::run_loop(const ForStatement& node, const Value& iterable, int depth) {
  std::vector<Value> items = iterate(runtime_, iterable);
  if (node.condition) {
    std::vector<Value> kept;
    for (const Value& item : items) {
      const NewScope scope(*this);
      assign(node.target, item);
      if (is_true(evaluate(*node.condition))) kept.push_back(item);
    }
    items = std::move(kept);
  }
  if (items.empty()) {
    if (!node.otherwise) return;
    const NewScope scope(*this);
    execute(*node.otherwise);
    return;
  }
  const auto loop = std::make_shared<Loop>(*this, node, scope_, std::move(items), depth);
  const std::unique_ptr<Loop, void (*)(Loop*)> end(loop.get(), [](Loop* ending) { ending->end(); });
  for (std::size_t i = 0; i < loop->items().size(); ++i) {
    runtime_.budget().spend(2);
    loop->move_to(i);
    const NewScope scope(*this);
    scope_->set("loop", Value(std::shared_ptr<Object>(loop)));
    assign(node.target, loop->items()[i]);
    if (execute(*node.body) == Flow::kBreak) break;
  }
}

Value Evaluator::run_recursively(const ForStatement& loop, const std::shared_ptr<Scope>& scope,
                                 const Value& iterable, int depth) {
  const NewScope inner(*this, scope);
  Capture capture(*this);
  run_loop(loop, iterable, depth);
  return runtime_.text(capture.take());
}

Value Evaluator::make_macro(std::shared_ptr<const MacroDefinition> definition) {
  runtime_.budget().spend(kMacroWork);
  if (held_scopes_.empty() || held_scopes_.back() != scope_) held_scopes_.push_back(scope_);
  return Value(
      std::shared_ptr<Object>(std::make_shared<Macro>(*this, std::move(definition), scope_)));
}

Evaluator::Flow Evaluator::execute(const MacroStatement& node) {
  scope_->set(node.macro->name, make_macro(node.macro));
  return Flow::kNext;
}

Evaluator::Flow Evaluator::execute(const CallStatement& node) {
  const Value result = call(std::get<CallExpr>(node.call->node), make_macro(node.caller));
  write(print(result, runtime_.budget()));
  return Flow::kNext;
}

Value Evaluator::call_macro(const MacroDefinition& macro, const std::shared_ptr<Scope>& scope,
                            Arguments arguments) {
  const NewScope inner(*this, scope);
  auto& positional = arguments.positional;
  auto& named = arguments.named;
  runtime_.budget().spend(1 + named.size() * macro.parameters.size());
  const auto take_named = [&](std::string_view name) -> std::optional<Value> {
    const auto found =
        std::find_if(named.begin(), named.end(), [&](const auto& n) { return n.first == name; });
    if (found == named.end()) return std::nullopt;
    Value value = std::move(found->second);
    named.erase(found);
    return value;
  };
  for (std::size_t i = 0; i < macro.parameters.size(); ++i) {
    const Parameter& parameter = macro.parameters[i];
    Value value;
    if (i < positional.size())
      value = positional[i];
    else if (auto given = take_named(parameter.name))
      value = std::move(*given);
    else if (parameter.fallback)
      value = evaluate(*parameter.fallback);
    else
      value = Value::undefined(fmt::format("parameter '{}' was not provided", parameter.name));
    scope_->set(parameter.name, std::move(value));
  }
  if (macro.takes_caller && scope_->find("caller") == nullptr) {
    auto caller = take_named("caller");
    scope_->set("caller", caller ? std::move(*caller) : Value::undefined("no caller defined"));
  }
  if (macro.takes_named) {
    Dict rest;
    for (auto& [name, value] : named)
      rest.set(runtime_.budget(), Value(std::string_view(name)), std::move(value));
    scope_->set("kwargs", make_dict(std::move(rest)));
  } else if (!named.empty()) {
    fail_here("macro '{}' takes no keyword argument '{}'", macro.name, named.front().first);
  }
  const std::size_t taken = std::min(positional.size(), macro.parameters.size());
  if (macro.takes_more) {
    std::vector<Value> rest(positional.begin() + static_cast<std::ptrdiff_t>(taken),
                            positional.end());
    scope_->set("varargs", make_tuple(runtime_.budget(), std::move(rest)));
  } else if (positional.size() > taken) {
    fail_here("macro '{}' takes not more than {} arguments", macro.name, macro.parameters.size());
  }
  Capture capture(*this);
  execute(*macro.body);
  return runtime_.text(capture.take());
}

Evaluator::Flow Evaluator::execute(const FilterStatement& node) {
  const Value body = capture(*node.body);
  write(print(filter_body(*node.filter, body), runtime_.budget()));
  return Flow::kNext;
}

Evaluator::Flow Evaluator::execute(const WithStatement& node) {
  // All evaluated in the outer scope, so that in "a=1, b=a" the second a is the outer one.
  std::vector<Value> values;
  for (const auto& [target, value] : node.assignments) values.push_back(evaluate(*value));
  const NewScope scope(*this);
  for (std::size_t i = 0; i < values.size(); ++i) assign(node.assignments[i].first, values[i]);
  return execute(*node.body);
}

Evaluator::Flow Evaluator::execute(const ScopeStatement& node) {
  const NewScope scope(*this);
  return execute(*node.body);
}

void Evaluator::assign(const Target& target, const Value& value) {
  if (target.is_tuple) {
    const std::vector<Value> items = iterate(runtime_, value);
    if (items.size() != target.parts.size())
      fail_here("{} values to unpack, expected {}", items.size(), target.parts.size());
    for (std::size_t i = 0; i < items.size(); ++i) assign(target.parts[i], items[i]);
    return;
  }
  if (target.attribute.empty()) {
    runtime_.budget().spend(1 + scope_->values.size() / 16);
    scope_->set(target.name, value);
    return;
  }
  for (Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get()) {
    const Value* found = scope->find(target.name);
    if (found == nullptr) continue;
    auto* space = found->is_object() ? dynamic_cast<Namespace*>(&found->object()) : nullptr;
    if (space == nullptr) break;
    space->set(target.attribute, value);
    return;
  }
  fail_here("can't set '{}' of '{}': it is no namespace", target.attribute, target.name);
}

}  // namespace tandem::jinja
