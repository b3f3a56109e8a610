// Walks the tree of a template: expressions are in evaluator.cc, statements in statements.cc.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/runtime.h"

namespace tandem::jinja {

// A scope of variable names. Each loop iteration, macro call etc. has its own.
struct Scope {
  std::shared_ptr<Scope> parent;
  std::vector<std::pair<std::string, Value>> values;

  Value* find(std::string_view name);
  void set(std::string_view name, Value value);
};

class Evaluator {
 public:
  // `name` is used in errors.
  Evaluator(std::string_view name, Runtime& runtime);
  ~Evaluator();
  Evaluator(const Evaluator&) = delete;
  Evaluator& operator=(const Evaluator&) = delete;

  void define(std::string_view name, Value value) { scope_->set(name, std::move(value)); }
  Text render(const Body& body);

  // The interface for macros and recursive loops.
  Value call_macro(const MacroDefinition& macro, const std::shared_ptr<Scope>& scope,
                   Arguments arguments);
  Value run_recursively(const ForStatement& loop, const std::shared_ptr<Scope>& scope,
                        const Value& iterable, int depth);

 private:
  enum class Flow { kNext, kBreak, kContinue };
  // RAII: makes a scope current.
  class NewScope;
  // RAII: captures the output.
  class Capture;

  [[noreturn]] void fail_at(const Place& place, const Failure& failure) const;

  Value evaluate(const Expr& expr);
  Value evaluate(const LiteralExpr& node) { return node.value; }
  Value evaluate(const NameExpr& node);
  Value evaluate(const ListExpr& node);
  Value evaluate(const DictExpr& node);
  Value evaluate(const AttributeExpr& node);
  Value evaluate(const ItemExpr& node);
  Value evaluate(const SliceExpr& node);
  Value evaluate(const CallExpr& node);
  Value evaluate(const FilterExpr& node);
  Value evaluate(const TestExpr& node);
  Value evaluate(const UnaryExpr& node);
  Value evaluate(const BinaryExpr& node);
  Value evaluate(const ConcatExpr& node);
  Value evaluate(const LogicExpr& node);
  Value evaluate(const CompareExpr& node);
  Value evaluate(const ConditionalExpr& node);
  bool compare(CompareOp op, const Value& a, const Value& b);
  Arguments evaluate_arguments(const CallArguments& arguments);
  Value call(const CallExpr& node, Value caller);
  // Applies a chain of filters without an operand, as in a filter block, to `body`.
  Value filter_body(const Expr& filter, const Value& body);

  Flow execute(const Body& body);
  Flow execute(const Statement& statement);
  Flow execute(const TextStatement& node);
  Flow execute(const OutputStatement& node);
  Flow execute(const SetStatement& node);
  Flow execute(const BlockSetStatement& node);
  Flow execute(const IfStatement& node);
  Flow execute(const ForStatement& node);
  Flow execute(const MacroStatement& node);
  Flow execute(const CallStatement& node);
  Flow execute(const FilterStatement& node);
  Flow execute(const WithStatement& node);
  Flow execute(const ScopeStatement& node);
  Flow execute(const BreakStatement&) { return Flow::kBreak; }
  Flow execute(const ContinueStatement&) { return Flow::kContinue; }

  void run_loop(const ForStatement& loop, const Value& iterable, int depth);
  void assign(const Target& target, const Value& value);
  void write(const Text& text);
  // The output of a body, evaluated in its own scope.
  Value capture(const Body& body);
  Value make_macro(std::shared_ptr<const MacroDefinition> definition);

  std::string_view name_;
  Runtime& runtime_;
  std::shared_ptr<Scope> scope_;
  Text* output_ = nullptr;
  // Scopes that are kept alive by macros and may in turn hold those macros: emptied at the end to
  // break the cycles.
  std::vector<std::shared_ptr<Scope>> held_scopes_;
};

class Evaluator::NewScope {
 public:
  // The new scope is inside `parent`, which need not be the current scope.
  NewScope(Evaluator& evaluator, std::shared_ptr<Scope> parent)
      : evaluator_(evaluator), previous_(evaluator.scope_) {
    evaluator.scope_ = std::make_shared<Scope>(Scope{std::move(parent), {}});
  }
  explicit NewScope(Evaluator& evaluator) : NewScope(evaluator, evaluator.scope_) {}
  ~NewScope() { evaluator_.scope_ = std::move(previous_); }
  NewScope(const NewScope&) = delete;
  NewScope& operator=(const NewScope&) = delete;

 private:
  Evaluator& evaluator_;
  std::shared_ptr<Scope> previous_;
};

class Evaluator::Capture {
 public:
  explicit Capture(Evaluator& evaluator) : evaluator_(evaluator), previous_(evaluator.output_) {
    evaluator.output_ = &text_;
  }
  ~Capture() { evaluator_.output_ = previous_; }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  Text take() { return std::move(text_); }

 private:
  Evaluator& evaluator_;
  Text* previous_;
  Text text_;
};

}  // namespace tandem::jinja
