// The tree that a template is parsed into.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "text/jinja/lexer.h"
#include "text/jinja/value.h"

namespace tandem::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<const Expr>;

struct CallArguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  // *args, or null.
  ExprPtr more_positional;
  // **kwargs, or null.
  ExprPtr more_named;
};

struct LiteralExpr {
  Value value;
};
struct NameExpr {
  std::string name;
};
struct ListExpr {
  std::vector<ExprPtr> items;
  bool is_tuple;
};
struct DictExpr {
  std::vector<std::pair<ExprPtr, ExprPtr>> entries;
};
struct AttributeExpr {
  ExprPtr object;
  std::string name;
};
struct ItemExpr {
  ExprPtr object;
  ExprPtr key;
};
struct SliceExpr {
  ExprPtr object;
  // Each may be null.
  ExprPtr start, stop, step;
};
struct CallExpr {
  ExprPtr callee;
  CallArguments arguments;
};
struct FilterExpr {
  // Null: the input is the body of a filter block or block set.
  ExprPtr value;
  std::string name;
  CallArguments arguments;
};
struct TestExpr {
  ExprPtr value;
  std::string name;
  CallArguments arguments;
  bool negated;
};
enum class UnaryOp { kNot, kNegate, kPlus };
struct UnaryExpr {
  UnaryOp op;
  ExprPtr operand;
};
enum class BinaryOp { kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower };
struct BinaryExpr {
  BinaryOp op;
  ExprPtr left, right;
};
struct ConcatExpr {
  std::vector<ExprPtr> parts;
};
struct LogicExpr {
  bool is_and;
  ExprPtr left, right;
};
enum class CompareOp { kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual, kIn, kNotIn };
// Such as a < b <= c.
struct CompareExpr {
  ExprPtr first;
  std::vector<std::pair<CompareOp, ExprPtr>> rest;
};
struct ConditionalExpr {
  ExprPtr condition, then;
  // Null: undefined.
  ExprPtr otherwise;
};

struct Expr {
  Place place;
  // Depth of the tree rooted at this node.
  int depth;
  std::variant<LiteralExpr, NameExpr, ListExpr, DictExpr, AttributeExpr, ItemExpr, SliceExpr,
               CallExpr, FilterExpr, TestExpr, UnaryExpr, BinaryExpr, ConcatExpr, LogicExpr,
               CompareExpr, ConditionalExpr>
      node;
};

struct Statement;
using Body = std::vector<Statement>;

// The target of "set" and "for": a name, an attribute of a namespace, or several targets.
struct Target {
  Place place;
  std::string name;
  // If not empty, the target is name.attribute.
  std::string attribute;
  // The value is unpacked into the parts; the name is unused.
  bool is_tuple = false;
  std::vector<Target> parts;
};

struct Parameter {
  std::string name;
  // May be null.
  ExprPtr fallback;
};

// A macro, or the body of a call block, which is also a macro.
struct MacroDefinition {
  std::string name;
  std::vector<Parameter> parameters;
  std::unique_ptr<const Body> body;
  // The body reads varargs.
  bool takes_more = false;
  // The body reads kwargs.
  bool takes_named = false;
  // The body reads caller.
  bool takes_caller = false;
};

struct TextStatement {
  Text text;
};
struct OutputStatement {
  ExprPtr value;
};
struct SetStatement {
  Target target;
  ExprPtr value;
};
struct BlockSetStatement {
  Target target;
  // May be null.
  ExprPtr filter;
  std::unique_ptr<const Body> body;
};
struct IfStatement {
  std::vector<std::pair<ExprPtr, std::unique_ptr<const Body>>> branches;
  // May be null.
  std::unique_ptr<const Body> otherwise;
};
struct ForStatement {
  Target target;
  ExprPtr iterable;
  // May be null.
  ExprPtr condition;
  std::unique_ptr<const Body> body;
  // May be null.
  std::unique_ptr<const Body> otherwise;
  bool recursive;
};
struct MacroStatement {
  std::shared_ptr<const MacroDefinition> macro;
};
struct CallStatement {
  // A CallExpr.
  ExprPtr call;
  std::shared_ptr<const MacroDefinition> caller;
};
struct FilterStatement {
  ExprPtr filter;
  std::unique_ptr<const Body> body;
};
struct WithStatement {
  std::vector<std::pair<Target, ExprPtr>> assignments;
  std::unique_ptr<const Body> body;
};
// A generation block or a named block: its content, in a scope of its own.
struct ScopeStatement {
  std::unique_ptr<const Body> body;
};
struct BreakStatement {};
struct ContinueStatement {};

struct Statement {
  Place place;
  std::variant<TextStatement, OutputStatement, SetStatement, BlockSetStatement, IfStatement,
               ForStatement, MacroStatement, CallStatement, FilterStatement, WithStatement,
               ScopeStatement, BreakStatement, ContinueStatement>
      node;
};

}  // namespace tandem::jinja
