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
  ExprPtr more_positional;  // *args, or null
  ExprPtr more_named;       // **kwargs, or null
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
  ExprPtr start, stop, step;  // each may be null
};
struct CallExpr {
  ExprPtr callee;
  CallArguments arguments;
};
struct FilterExpr {
  ExprPtr value;  // null: the body of a filter block or block set
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
struct CompareExpr {  // a < b <= c
  ExprPtr first;
  std::vector<std::pair<CompareOp, ExprPtr>> rest;
};
struct ConditionalExpr {
  ExprPtr condition, then;
  ExprPtr otherwise;  // null: undefined
};

struct Expr {
  Place place;
  int depth;  // of the tree below and including this node
  std::variant<LiteralExpr, NameExpr, ListExpr, DictExpr, AttributeExpr, ItemExpr, SliceExpr,
               CallExpr, FilterExpr, TestExpr, UnaryExpr, BinaryExpr, ConcatExpr, LogicExpr,
               CompareExpr, ConditionalExpr>
      node;
};

struct Statement;
using Body = std::vector<Statement>;

// What "set" and "for" assign to: a name, an attribute of a namespace, or several targets.
struct Target {
  Place place;
  std::string name;
  std::string attribute;  // not empty: name.attribute
  bool is_tuple = false;  // unpacked into the parts; the name means nothing
  std::vector<Target> parts;
};

struct Parameter {
  std::string name;
  ExprPtr fallback;  // or null
};

// A macro, or the body of a call block as its macro sees it.
struct MacroDefinition {
  std::string name;
  std::vector<Parameter> parameters;
  std::unique_ptr<const Body> body;
  bool takes_more = false;    // the body reads varargs
  bool takes_named = false;   // the body reads kwargs
  bool takes_caller = false;  // the body reads caller
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
  ExprPtr filter;  // or null
  std::unique_ptr<const Body> body;
};
struct IfStatement {
  std::vector<std::pair<ExprPtr, std::unique_ptr<const Body>>> branches;
  std::unique_ptr<const Body> otherwise;  // or null
};
struct ForStatement {
  Target target;
  ExprPtr iterable;
  ExprPtr condition;  // or null
  std::unique_ptr<const Body> body;
  std::unique_ptr<const Body> otherwise;  // or null
  bool recursive;
};
struct MacroStatement {
  std::shared_ptr<const MacroDefinition> macro;
};
struct CallStatement {
  ExprPtr call;  // a CallExpr
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
struct ScopeStatement {  // a generation block or a named one: its content, in a scope of its own
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
