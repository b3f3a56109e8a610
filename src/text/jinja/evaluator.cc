// Evaluates expressions.
#include "text/jinja/evaluator.h"

#include "text/jinja/operators.h"
#include "text/jinja/print.h"

namespace tandem::jinja {

Value* Scope::find(std::string_view name) {
  for (auto& [key, value] : values)
    if (key == name) return &value;
  return nullptr;
}

void Scope::set(std::string_view name, Value value) {
  if (Value* old = find(name))
    *old = std::move(value);
  else
    values.emplace_back(name, std::move(value));
}

Evaluator::Evaluator(std::string_view name, Runtime& runtime)
    : name_(name), runtime_(runtime), scope_(std::make_shared<Scope>()) {}

Evaluator::~Evaluator() {
  for (const auto& scope : held_scopes_) scope->values.clear();
}

void Evaluator::fail_at(const Place& place, const Failure& failure) const {
  fail(failure.code, "[chat template] {}:{}:{}: {}", name_, place.line, place.column,
       failure.message);
}

Value Evaluator::evaluate(const Expr& expr) {
  try {
    const Runtime::Depth depth(runtime_);
    runtime_.budget().spend();
    return std::visit([this](const auto& node) { return evaluate(node); }, expr.node);
  } catch (const Failure& failure) {
    fail_at(expr.place, failure);
  }
}

Value Evaluator::evaluate(const NameExpr& node) {
  for (Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get()) {
    runtime_.budget().spend(1 + scope->values.size() / 16);
    if (const Value* found = scope->find(node.name)) return *found;
  }
  if (const Builtin* global = find_builtin(globals(), node.name)) return make_function(*global);
  return Value::undefined(fmt::format("'{}' is undefined", node.name));
}

Value Evaluator::evaluate(const ListExpr& node) {
  std::vector<Value> items;
  items.reserve(node.items.size());
  for (const auto& item : node.items) items.push_back(evaluate(*item));
  return node.is_tuple ? make_tuple(runtime_.budget(), std::move(items))
                       : runtime_.list(std::move(items));
}

Value Evaluator::evaluate(const DictExpr& node) {
  Dict dict;
  for (const auto& [key, value] : node.entries) {
    Value evaluated_key = evaluate(*key);
    dict.set(runtime_.budget(), std::move(evaluated_key), evaluate(*value));
  }
  return make_dict(std::move(dict));
}

Value Evaluator::evaluate(const AttributeExpr& node) {
  return get_attribute(runtime_, evaluate(*node.object), node.name);
}

Value Evaluator::evaluate(const ItemExpr& node) {
  const Value object = evaluate(*node.object);
  return get_item(runtime_, object, evaluate(*node.key));
}

Value Evaluator::evaluate(const SliceExpr& node) {
  const Value object = evaluate(*node.object);
  const auto bound = [&](const ExprPtr& expr) { return expr ? evaluate(*expr) : Value(); };
  const Value start = bound(node.start);
  const Value stop = bound(node.stop);
  return get_slice(runtime_, object, start, stop, bound(node.step));
}

Arguments Evaluator::evaluate_arguments(const CallArguments& arguments) {
  Arguments result;
  for (const auto& value : arguments.positional) result.positional.push_back(evaluate(*value));
  for (const auto& [name, value] : arguments.named)
    result.named.emplace_back(name, evaluate(*value));
  if (arguments.more_positional) {
    auto more = iterate(runtime_, evaluate(*arguments.more_positional));
    result.positional.insert(result.positional.end(), more.begin(), more.end());
  }
  if (arguments.more_named) {
    const Value more = evaluate(*arguments.more_named);
    if (!more.is_dict()) fail_here("'**' needs a dict, got '{}'", more.type_name());
    for (const auto& [key, value] : more.dict().entries()) {
      runtime_.budget().spend(4);
      if (!key.is_text()) fail_here("keywords must be strings");
      for (const auto& [name, given] : arguments.named)
        if (name == key.text().bytes()) fail_here("argument '{}' is given twice", name);
      result.named.emplace_back(key.text().bytes(), value);
    }
  }
  return result;
}

Value Evaluator::evaluate(const CallExpr& node) { return call(node, Value()); }

// `caller` is the macro of a call block, None otherwise.
Value Evaluator::call(const CallExpr& node, Value caller) {
  const Value callee = evaluate(*node.callee);
  Arguments arguments = evaluate_arguments(node.arguments);
  if (!caller.is_none()) arguments.named.emplace_back("caller", std::move(caller));
  return call_value(runtime_, callee, std::move(arguments));
}

Value Evaluator::evaluate(const FilterExpr& node) {
  Value value = evaluate(*node.value);
  Arguments arguments = evaluate_arguments(node.arguments);
  arguments.positional.insert(arguments.positional.begin(), std::move(value));
  return apply_filter(runtime_, node.name, std::move(arguments));
}

Value Evaluator::filter_body(const Expr& filter, const Value& body) {
  const auto& node = std::get<FilterExpr>(filter.node);
  try {
    const Runtime::Depth depth(runtime_);
    Value value = node.value ? filter_body(*node.value, body) : body;
    Arguments arguments = evaluate_arguments(node.arguments);
    arguments.positional.insert(arguments.positional.begin(), std::move(value));
    return apply_filter(runtime_, node.name, std::move(arguments));
  } catch (const Failure& failure) {
    fail_at(filter.place, failure);
  }
}

Value Evaluator::evaluate(const TestExpr& node) {
  Value value = evaluate(*node.value);
  Arguments arguments = evaluate_arguments(node.arguments);
  arguments.positional.insert(arguments.positional.begin(), std::move(value));
  return Value(apply_test(runtime_, node.name, std::move(arguments)) != node.negated);
}

Value Evaluator::evaluate(const UnaryExpr& node) {
  const Value operand = evaluate(*node.operand);
  if (node.op == UnaryOp::kNot) return Value(!is_true(operand));
  // Throws unless the operand is a number.
  const Value negative = negate(operand, runtime_.budget());
  if (node.op == UnaryOp::kNegate) return negative;
  return operand.is_bool() ? Value(operand.integer()) : operand;
}

Value Evaluator::evaluate(const BinaryExpr& node) {
  const Value left = evaluate(*node.left);
  return binary(runtime_, node.op, left, evaluate(*node.right));
}

Value Evaluator::evaluate(const ConcatExpr& node) {
  Text result;
  for (const auto& part : node.parts) {
    const Text text = print(evaluate(*part), runtime_.budget());
    runtime_.budget().spend_text(result.size() + text.size());
    result.append(text);
  }
  return Value(std::move(result));
}

Value Evaluator::evaluate(const LogicExpr& node) {
  Value left = evaluate(*node.left);
  return is_true(left) == node.is_and ? evaluate(*node.right) : left;
}

Value Evaluator::evaluate(const CompareExpr& node) {
  Value left = evaluate(*node.first);
  for (const auto& [op, expr] : node.rest) {
    Value right = evaluate(*expr);
    if (!compare(op, left, right)) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

bool Evaluator::compare(CompareOp op, const Value& a, const Value& b) {
  Budget& budget = runtime_.budget();
  switch (op) {
    case CompareOp::kEqual:
      return equal(a, b, budget);
    case CompareOp::kNotEqual:
      return !equal(a, b, budget);
    case CompareOp::kLess:
      return less(a, b, budget);
    case CompareOp::kLessEqual:
      return less(a, b, budget) || equal(a, b, budget);
    case CompareOp::kGreater:
      return less(b, a, budget);
    case CompareOp::kGreaterEqual:
      return less(b, a, budget) || equal(a, b, budget);
    case CompareOp::kIn:
      return contains(b, a, budget);
    case CompareOp::kNotIn:
      return !contains(b, a, budget);
  }
  return false;
}

Value Evaluator::evaluate(const ConditionalExpr& node) {
  if (is_true(evaluate(*node.condition))) return evaluate(*node.then);
  if (node.otherwise) return evaluate(*node.otherwise);
  return Value::undefined("the condition of an 'if' expression is false and it has no 'else'");
}

}  // namespace tandem::jinja
