// Expressions, by recursive descent in Jinja's order of precedence: each function parses what binds
// tighter than the one before it.
#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "text/jinja/big_integer.h"
#include "text/jinja/parser.h"

namespace tandem::jinja {

Parser::Level::Level(Parser& parser) : parser_(parser) {
  // Thrown from a constructor, so the count is restored here, as the destructor will not run.
  if (++parser_.level_ > kMaxExpressionDepth) {
    --parser_.level_;
    parser_.fail_at(parser_.current().place,
                    fmt::format("nested more than {} deep", kMaxExpressionDepth));
  }
}

void Parser::fail_at(const Place& place, const std::string& what) const {
  fail(ErrorCode::kFormat, "[chat template] {}:{}:{}: {}", name_, place.line, place.column, what);
}

void Parser::fail_expected(std::string_view what) const {
  fail_at(current().place, fmt::format("expected {}, got {}", what, describe(current())));
}

ExprPtr Parser::parse_integer_literal() {
  const Token token = next();
  std::optional<Value> value;
  try {
    value = parse_integer(token.text, token.base);
  } catch (const Failure& failure) {
    fail_at(token.place, failure.message);
  }
  if (!value) fail_at(token.place, fmt::format("'{}' is no integer", token.text));
  return make(token.place, LiteralExpr{*value});
}

Token Parser::next() {
  if (current().kind == TokenKind::kEnd) return current();
  return std::move(tokens_[position_++]);
}

bool Parser::is_operator(std::string_view text) const {
  return current().kind == TokenKind::kOperator && current().text == text;
}

bool Parser::is_name(std::string_view text) const {
  return current().kind == TokenKind::kName && current().text == text;
}

bool Parser::skip_operator(std::string_view text) {
  if (!is_operator(text)) return false;
  ++position_;
  return true;
}

bool Parser::skip_name(std::string_view text) {
  if (!is_name(text)) return false;
  ++position_;
  return true;
}

void Parser::expect_operator(std::string_view text) {
  if (!skip_operator(text)) fail_expected(fmt::format("'{}'", text));
}

void Parser::expect_name(std::string_view text) {
  if (!skip_name(text)) fail_expected(fmt::format("'{}'", text));
}

std::string Parser::expect_identifier() {
  if (current().kind != TokenKind::kName) fail_expected("a name");
  return next().text;
}

ExprPtr Parser::finish(const Place& place, Expr expr, int depth) const {
  if (depth > kMaxExpressionDepth)
    fail_at(place, fmt::format("expression is nested more than {} deep", kMaxExpressionDepth));
  expr.depth = depth;
  return std::make_unique<const Expr>(std::move(expr));
}

int Parser::depth_of(const CallArguments& arguments) const {
  int depth = 0;
  for (const auto& value : arguments.positional) depth = std::max(depth, value->depth);
  for (const auto& [name, value] : arguments.named) depth = std::max(depth, value->depth);
  if (arguments.more_positional) depth = std::max(depth, arguments.more_positional->depth);
  if (arguments.more_named) depth = std::max(depth, arguments.more_named->depth);
  return depth;
}

ExprPtr Parser::parse_expression() {
  const Level level(*this);
  const Place place = current().place;
  ExprPtr value = parse_or();
  while (skip_name("if")) {
    ExprPtr condition = parse_or();
    ExprPtr otherwise = skip_name("else") ? parse_expression() : nullptr;
    const std::initializer_list<const Expr*> children = {condition.get(), value.get(),
                                                         otherwise.get()};
    value =
        make(place, ConditionalExpr{std::move(condition), std::move(value), std::move(otherwise)},
             children);
  }
  return value;
}

ExprPtr Parser::parse_or() {
  const Place place = current().place;
  ExprPtr left = parse_and();
  while (skip_name("or")) {
    ExprPtr right = parse_and();
    const std::initializer_list<const Expr*> children = {left.get(), right.get()};
    left = make(place, LogicExpr{false, std::move(left), std::move(right)}, children);
  }
  return left;
}

ExprPtr Parser::parse_and() {
  const Place place = current().place;
  ExprPtr left = parse_not();
  while (skip_name("and")) {
    ExprPtr right = parse_not();
    const std::initializer_list<const Expr*> children = {left.get(), right.get()};
    left = make(place, LogicExpr{true, std::move(left), std::move(right)}, children);
  }
  return left;
}

ExprPtr Parser::parse_not() {
  const Level level(*this);
  const Place place = current().place;
  if (!skip_name("not")) return parse_compare();
  ExprPtr operand = parse_not();
  const std::initializer_list<const Expr*> children = {operand.get()};
  return make(place, UnaryExpr{UnaryOp::kNot, std::move(operand)}, children);
}

ExprPtr Parser::parse_compare() {
  static constexpr std::array<std::pair<std::string_view, CompareOp>, 6> kOperators = {{
      {"==", CompareOp::kEqual},
      {"!=", CompareOp::kNotEqual},
      {"<", CompareOp::kLess},
      {"<=", CompareOp::kLessEqual},
      {">", CompareOp::kGreater},
      {">=", CompareOp::kGreaterEqual},
  }};
  const Place place = current().place;
  ExprPtr first = parse_sum();
  int depth = first->depth;
  std::vector<std::pair<CompareOp, ExprPtr>> rest;
  while (true) {
    const auto found = std::find_if(kOperators.begin(), kOperators.end(),
                                    [&](const auto& entry) { return is_operator(entry.first); });
    CompareOp op;
    if (found != kOperators.end()) {
      op = found->second;
      next();
    } else if (skip_name("in")) {
      op = CompareOp::kIn;
    } else if (is_name("not") && ahead().kind == TokenKind::kName && ahead().text == "in") {
      op = CompareOp::kNotIn;
      position_ += 2;
    } else {
      break;
    }
    rest.emplace_back(op, parse_sum());
    depth = std::max(depth, rest.back().second->depth);
  }
  if (rest.empty()) return first;
  return finish(place, Expr{place, 0, CompareExpr{std::move(first), std::move(rest)}}, depth + 1);
}

ExprPtr Parser::parse_sum() {
  const Place place = current().place;
  ExprPtr left = parse_concat();
  while (is_operator("+") || is_operator("-")) {
    const BinaryOp op = next().text == "+" ? BinaryOp::kAdd : BinaryOp::kSubtract;
    ExprPtr right = parse_concat();
    const std::initializer_list<const Expr*> children = {left.get(), right.get()};
    left = make(place, BinaryExpr{op, std::move(left), std::move(right)}, children);
  }
  return left;
}

ExprPtr Parser::parse_concat() {
  const Place place = current().place;
  std::vector<ExprPtr> parts;
  parts.push_back(parse_product());
  if (!is_operator("~")) return std::move(parts.front());
  int depth = parts.front()->depth;
  while (skip_operator("~")) {
    parts.push_back(parse_product());
    depth = std::max(depth, parts.back()->depth);
  }
  return finish(place, Expr{place, 0, ConcatExpr{std::move(parts)}}, depth + 1);
}

ExprPtr Parser::parse_product() {
  const Place place = current().place;
  ExprPtr left = parse_power();
  while (is_operator("*") || is_operator("/") || is_operator("//") || is_operator("%")) {
    const std::string text = next().text;
    const BinaryOp op = text == "*"    ? BinaryOp::kMultiply
                        : text == "/"  ? BinaryOp::kDivide
                        : text == "//" ? BinaryOp::kFloorDivide
                                       : BinaryOp::kModulo;
    ExprPtr right = parse_power();
    const std::initializer_list<const Expr*> children = {left.get(), right.get()};
    left = make(place, BinaryExpr{op, std::move(left), std::move(right)}, children);
  }
  return left;
}

ExprPtr Parser::parse_power() {
  const Place place = current().place;
  ExprPtr left = parse_unary(true);
  while (skip_operator("**")) {
    ExprPtr right = parse_unary(true);
    const std::initializer_list<const Expr*> children = {left.get(), right.get()};
    left = make(place, BinaryExpr{BinaryOp::kPower, std::move(left), std::move(right)}, children);
  }
  return left;
}

// In Jinja a filter binds more loosely than a sign: -5|abs is (-5)|abs.
ExprPtr Parser::parse_unary(bool with_filters) {
  const Level level(*this);
  const Place place = current().place;
  ExprPtr value;
  if (is_operator("-") || is_operator("+")) {
    const UnaryOp op = next().text == "-" ? UnaryOp::kNegate : UnaryOp::kPlus;
    ExprPtr operand = parse_unary(false);
    const std::initializer_list<const Expr*> children = {operand.get()};
    value = make(place, UnaryExpr{op, std::move(operand)}, children);
  } else {
    value = parse_primary();
  }
  value = parse_postfix(std::move(value));
  return with_filters ? parse_filters_and_tests(std::move(value)) : std::move(value);
}

ExprPtr Parser::parse_primary() {
  const Place place = current().place;
  switch (current().kind) {
    case TokenKind::kName: {
      std::string name = next().text;
      if (name == "true" || name == "True") return make(place, LiteralExpr{Value(true)});
      if (name == "false" || name == "False") return make(place, LiteralExpr{Value(false)});
      if (name == "none" || name == "None") return make(place, LiteralExpr{Value()});
      for (MacroDefinition* macro : macros_) {
        macro->takes_more |= name == "varargs";
        macro->takes_named |= name == "kwargs";
        macro->takes_caller |= name == "caller";
      }
      return make(place, NameExpr{std::move(name)});
    }
    case TokenKind::kString: {
      std::string text = next().text;
      while (current().kind == TokenKind::kString) text += next().text;
      return make(place, LiteralExpr{Value(Text(std::move(text)))});
    }
    case TokenKind::kInteger:
      return parse_integer_literal();
    case TokenKind::kFloat:
      return make(place, LiteralExpr{Value(next().number)});
    default:
      break;
  }
  if (is_operator("(")) return parse_parenthesized();
  if (is_operator("[")) return parse_list();
  if (is_operator("{")) return parse_dict();
  fail_expected("an expression");
}

ExprPtr Parser::parse_parenthesized() {
  const Place place = next().place;
  if (skip_operator(")")) return make(place, ListExpr{{}, true});
  ExprPtr value = parse_tuple();
  expect_operator(")");
  return value;
}

ExprPtr Parser::parse_list() {
  const Place place = next().place;
  std::vector<ExprPtr> items;
  int depth = 0;
  while (!is_operator("]")) {
    if (!items.empty()) expect_operator(",");
    if (is_operator("]")) break;
    items.push_back(parse_expression());
    depth = std::max(depth, items.back()->depth);
  }
  expect_operator("]");
  return finish(place, Expr{place, 0, ListExpr{std::move(items), false}}, depth + 1);
}

ExprPtr Parser::parse_dict() {
  const Place place = next().place;
  std::vector<std::pair<ExprPtr, ExprPtr>> entries;
  int depth = 0;
  while (!is_operator("}")) {
    if (!entries.empty()) expect_operator(",");
    if (is_operator("}")) break;
    ExprPtr key = parse_expression();
    expect_operator(":");
    ExprPtr value = parse_expression();
    depth = std::max({depth, key->depth, value->depth});
    entries.emplace_back(std::move(key), std::move(value));
  }
  expect_operator("}");
  return finish(place, Expr{place, 0, DictExpr{std::move(entries)}}, depth + 1);
}

ExprPtr Parser::parse_postfix(ExprPtr value) {
  while (true) {
    if (is_operator(".") || is_operator("["))
      value = parse_subscript(std::move(value));
    else if (is_operator("("))
      value = parse_call(std::move(value));
    else
      return value;
  }
}

ExprPtr Parser::parse_subscript(ExprPtr value) {
  const Place place = current().place;
  const Expr* object = value.get();
  if (skip_operator(".")) {
    if (current().kind == TokenKind::kInteger) {
      ExprPtr key = parse_integer_literal();
      return make(place, ItemExpr{std::move(value), std::move(key)}, {object});
    }
    return make(place, AttributeExpr{std::move(value), expect_identifier()}, {object});
  }
  expect_operator("[");
  ExprPtr start, stop, step;
  bool is_slice = false;
  if (!is_operator(":")) start = parse_expression();
  if (skip_operator(":")) {
    is_slice = true;
    if (!is_operator(":") && !is_operator("]")) stop = parse_expression();
    if (skip_operator(":") && !is_operator("]")) step = parse_expression();
  } else if (is_operator(",")) {  // a tuple as key
    std::vector<ExprPtr> items;
    int depth = start->depth;
    items.push_back(std::move(start));
    while (skip_operator(",") && !is_operator("]")) {
      items.push_back(parse_expression());
      depth = std::max(depth, items.back()->depth);
    }
    start = finish(place, Expr{place, 0, ListExpr{std::move(items), true}}, depth + 1);
  }
  expect_operator("]");
  const std::initializer_list<const Expr*> children = {object, start.get(), stop.get(), step.get()};
  if (!is_slice) return make(place, ItemExpr{std::move(value), std::move(start)}, children);
  return make(place,
              SliceExpr{std::move(value), std::move(start), std::move(stop), std::move(step)},
              children);
}

ExprPtr Parser::parse_call(ExprPtr callee) {
  const Place place = current().place;
  CallArguments arguments = parse_arguments();
  const int depth = std::max(callee->depth, depth_of(arguments)) + 1;
  return finish(place, Expr{place, 0, CallExpr{std::move(callee), std::move(arguments)}}, depth);
}

ExprPtr Parser::parse_filters_and_tests(ExprPtr value) {
  while (true) {
    if (skip_operator("|"))
      value = parse_filter(std::move(value));
    else if (skip_name("is"))
      value = parse_test(std::move(value));
    else if (is_operator("("))
      value = parse_call(std::move(value));
    else
      return value;
  }
}

ExprPtr Parser::parse_filter(ExprPtr value) {
  const Place place = current().place;
  std::string name = expect_identifier();
  CallArguments arguments;
  if (is_operator("(")) arguments = parse_arguments();
  const int depth = std::max(value ? value->depth : 0, depth_of(arguments)) + 1;
  return finish(place,
                Expr{place, 0, FilterExpr{std::move(value), std::move(name), std::move(arguments)}},
                depth);
}

ExprPtr Parser::parse_test(ExprPtr value) {
  const Place place = current().place;
  const bool negated = skip_name("not");
  std::string name = expect_identifier();
  CallArguments arguments;
  const TokenKind kind = current().kind;
  const bool is_keyword = is_name("else") || is_name("or") || is_name("and") || is_name("if") ||
                          is_name("not") || is_name("in") || is_name("recursive");
  if (is_operator("(")) {
    arguments = parse_arguments();
  } else if (is_name("is")) {
    fail_expected("the end of the test (tests can't be chained)");
  } else if ((kind == TokenKind::kName && !is_keyword) || kind == TokenKind::kString ||
             kind == TokenKind::kInteger || kind == TokenKind::kFloat || is_operator("[") ||
             is_operator("{")) {
    arguments.positional.push_back(parse_postfix(parse_primary()));
  }
  const int depth = std::max(value->depth, depth_of(arguments)) + 1;
  return finish(
      place,
      Expr{place, 0, TestExpr{std::move(value), std::move(name), std::move(arguments), negated}},
      depth);
}

CallArguments Parser::parse_arguments() {
  const Level level(*this);
  expect_operator("(");
  CallArguments result;
  bool first = true;
  while (!is_operator(")")) {
    if (!first) expect_operator(",");
    if (is_operator(")")) break;
    first = false;
    const Place place = current().place;
    const bool closed = result.more_positional || result.more_named;
    if (skip_operator("*")) {
      if (closed) fail_at(place, "'*' must be the last positional argument");
      result.more_positional = parse_expression();
    } else if (skip_operator("**")) {
      if (result.more_named) fail_at(place, "'**' must be the last argument");
      result.more_named = parse_expression();
    } else if (current().kind == TokenKind::kName && ahead().kind == TokenKind::kOperator &&
               ahead().text == "=") {
      if (result.more_named) fail_at(place, "'**' must be the last argument");
      std::string name = next().text;
      next();
      for (const auto& [other, value] : result.named)
        if (other == name) fail_at(place, fmt::format("argument '{}' is given twice", name));
      result.named.emplace_back(std::move(name), parse_expression());
    } else {
      if (closed || !result.named.empty())
        fail_at(place, "positional argument follows a named one");
      result.positional.push_back(parse_expression());
    }
  }
  expect_operator(")");
  return result;
}

bool Parser::ends_tuple() const {
  const TokenKind kind = current().kind;
  return kind == TokenKind::kVariableEnd || kind == TokenKind::kBlockEnd ||
         kind == TokenKind::kEnd || is_operator(")") || is_name("recursive");
}

ExprPtr Parser::parse_tuple(bool conditional) {
  const Place place = current().place;
  ExprPtr value = conditional ? parse_expression() : parse_or();
  if (!is_operator(",")) return value;
  std::vector<ExprPtr> items;
  int depth = value->depth;
  items.push_back(std::move(value));
  while (skip_operator(",") && !ends_tuple()) {
    items.push_back(conditional ? parse_expression() : parse_or());
    depth = std::max(depth, items.back()->depth);
  }
  return finish(place, Expr{place, 0, ListExpr{std::move(items), true}}, depth + 1);
}

}  // namespace tandem::jinja
