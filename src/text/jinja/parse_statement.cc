// Statements: text, {{ … }} and {% … %} with their bodies.
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "text/jinja/parser.h"

namespace tandem::jinja {
namespace {

template <typename Node>
Statement statement(const Place& place, Node node) {
  return Statement{place, std::move(node)};
}

}  // namespace

Body parse(std::string_view source, std::string_view name) {
  return Parser(source, name).parse_template();
}

Body Parser::parse_template() { return parse_body({}); }

void Parser::expect_block_end() {
  if (current().kind != TokenKind::kBlockEnd) fail_expected("'%}'");
  next();
}

// Parses statements up to a tag named in `ends`, whose name is then the current token; up to the
// end of the template if `ends` is empty.
Body Parser::parse_body(std::initializer_list<std::string_view> ends) {
  if (++statement_level_ > kMaxStatementDepth)
    fail_at(current().place,
            fmt::format("statements are nested more than {} deep", kMaxStatementDepth));
  Body body;
  while (true) {
    const Token token = next();
    switch (token.kind) {
      case TokenKind::kData:
        body.push_back(statement(token.place, TextStatement{Text(token.text)}));
        break;
      case TokenKind::kVariableBegin: {
        ExprPtr value = parse_tuple();
        if (current().kind != TokenKind::kVariableEnd) fail_expected("'}}'");
        next();
        body.push_back(statement(token.place, OutputStatement{std::move(value)}));
        break;
      }
      case TokenKind::kBlockBegin:
        if (std::any_of(ends.begin(), ends.end(),
                        [&](std::string_view end) { return is_name(end); })) {
          --statement_level_;
          return body;
        }
        body.push_back(parse_statement(token));
        break;
      default:
        if (ends.size() != 0)
          fail_at(token.place,
                  fmt::format("the template ends, expected '{{% {} %}}'", *(ends.end() - 1)));
        --statement_level_;
        return body;
    }
  }
}

// Parses the rest of the current tag, then its body.
std::unique_ptr<const Body> Parser::parse_block(std::initializer_list<std::string_view> ends) {
  skip_operator(":");
  expect_block_end();
  return std::make_unique<const Body>(parse_body(ends));
}

// Parses a tag whose name is the current token.
Statement Parser::parse_statement(const Token& tag) {
  const Place place = tag.place;
  if (current().kind != TokenKind::kName) fail_expected("the name of a tag");
  const Token name = next();
  if (name.text == "set") return parse_set(place);
  if (name.text == "if") return parse_if(place);
  if (name.text == "for") return parse_for(place);
  if (name.text == "macro") return parse_macro(place);
  if (name.text == "call") return parse_call_block(place);
  if (name.text == "filter") return parse_filter_block(place);
  if (name.text == "with") return parse_with(place);
  if (name.text == "generation") {
    auto body = parse_block({"endgeneration"});
    next();
    expect_block_end();
    return statement(place, ScopeStatement{std::move(body)});
  }
  if (name.text == "block") {  // there is nothing that could replace it
    const Token block = next();
    if (block.kind != TokenKind::kName) fail_at(block.place, "expected the name of a block");
    while (is_name("scoped") || is_name("required")) next();
    auto body = parse_block({"endblock"});
    next();
    if (is_name(block.text)) next();
    expect_block_end();
    return statement(place, ScopeStatement{std::move(body)});
  }
  if (name.text == "print") {
    ExprPtr value = parse_expression();
    expect_block_end();
    return statement(place, OutputStatement{std::move(value)});
  }
  if (name.text == "break" || name.text == "continue") {
    if (loops_ == 0) fail_at(name.place, fmt::format("'{}' outside of a loop", name.text));
    expect_block_end();
    if (name.text == "break") return statement(place, BreakStatement{});
    return statement(place, ContinueStatement{});
  }
  fail_at(name.place, fmt::format("unknown tag '{}'", name.text));
}

Statement Parser::parse_set(const Place& place) {
  Target target = parse_target(true);
  if (skip_operator("=")) {
    ExprPtr value = parse_tuple();
    expect_block_end();
    return statement(place, SetStatement{std::move(target), std::move(value)});
  }
  ExprPtr filter;
  while (skip_operator("|")) filter = parse_filter(std::move(filter));
  if (current().kind != TokenKind::kBlockEnd) fail_expected("'=' or '%}'");
  auto body = parse_block({"endset"});
  next();
  expect_block_end();
  return statement(place, BlockSetStatement{std::move(target), std::move(filter), std::move(body)});
}

Statement Parser::parse_if(const Place& place) {
  IfStatement result;
  while (true) {
    ExprPtr condition = parse_tuple(false);
    auto body = parse_block({"elif", "else", "endif"});
    result.branches.emplace_back(std::move(condition), std::move(body));
    if (!skip_name("elif")) break;
  }
  if (skip_name("else")) result.otherwise = parse_block({"endif"});
  expect_name("endif");
  expect_block_end();
  return statement(place, std::move(result));
}

Statement Parser::parse_for(const Place& place) {
  ForStatement result;
  result.target = parse_target(false);
  expect_name("in");
  result.iterable = parse_tuple(false);
  if (skip_name("if")) result.condition = parse_expression();
  result.recursive = skip_name("recursive");
  ++loops_;
  result.body = parse_block({"else", "endfor"});
  --loops_;
  if (skip_name("else")) result.otherwise = parse_block({"endfor"});
  expect_name("endfor");
  expect_block_end();
  return statement(place, std::move(result));
}

std::vector<Parameter> Parser::parse_parameters() {
  std::vector<Parameter> result;
  expect_operator("(");
  while (!is_operator(")")) {
    if (!result.empty()) expect_operator(",");
    const Place place = current().place;
    Parameter parameter{expect_identifier(), nullptr};
    for (const Parameter& other : result)
      if (other.name == parameter.name)
        fail_at(place, fmt::format("parameter '{}' appears twice", parameter.name));
    if (skip_operator("="))
      parameter.fallback = parse_expression();
    else if (!result.empty() && result.back().fallback)
      fail_at(place, fmt::format("parameter '{}' needs a default, as the one before it has one",
                                 parameter.name));
    result.push_back(std::move(parameter));
  }
  expect_operator(")");
  return result;
}

void Parser::parse_macro_body(MacroDefinition& macro, std::string_view end) {
  const int loops = std::exchange(loops_, 0);
  macros_.push_back(&macro);
  macro.body = parse_block({end});
  macros_.pop_back();
  loops_ = loops;
  next();
  expect_block_end();
}

Statement Parser::parse_macro(const Place& place) {
  auto macro = std::make_shared<MacroDefinition>();
  macro->name = expect_identifier();
  macro->parameters = parse_parameters();
  parse_macro_body(*macro, "endmacro");
  return statement(place, MacroStatement{std::move(macro)});
}

Statement Parser::parse_call_block(const Place& place) {
  auto caller = std::make_shared<MacroDefinition>();
  caller->name = "caller";
  if (is_operator("(")) caller->parameters = parse_parameters();
  const Place call_place = current().place;
  ExprPtr call = parse_expression();
  if (!std::holds_alternative<CallExpr>(call->node))
    fail_at(call_place, "expected a call of a macro");
  parse_macro_body(*caller, "endcall");
  return statement(place, CallStatement{std::move(call), std::move(caller)});
}

Statement Parser::parse_filter_block(const Place& place) {
  ExprPtr filter = parse_filter(nullptr);
  while (skip_operator("|")) filter = parse_filter(std::move(filter));
  auto body = parse_block({"endfilter"});
  next();
  expect_block_end();
  return statement(place, FilterStatement{std::move(filter), std::move(body)});
}

Statement Parser::parse_with(const Place& place) {
  WithStatement result;
  while (current().kind != TokenKind::kBlockEnd && !is_operator(":")) {
    if (!result.assignments.empty()) expect_operator(",");
    Target target = parse_target_part(false);
    expect_operator("=");
    result.assignments.emplace_back(std::move(target), parse_expression());
  }
  result.body = parse_block({"endwith"});
  next();
  expect_block_end();
  return statement(place, std::move(result));
}

// A target, or several separated by commas.
Target Parser::parse_target(bool with_attribute) {
  Target first = parse_target_part(with_attribute);
  if (!is_operator(",")) return first;
  Target result;
  result.place = first.place;
  result.is_tuple = true;
  result.parts.push_back(std::move(first));
  while (skip_operator(",")) {
    if (is_name("in") || is_operator("=") || is_operator(")") ||
        current().kind == TokenKind::kBlockEnd)
      break;
    result.parts.push_back(parse_target_part(with_attribute));
  }
  return result;
}

Target Parser::parse_target_part(bool with_attribute) {
  const Level level(*this);
  Target result;
  result.place = current().place;
  if (skip_operator("(")) {
    result = parse_target(with_attribute);
    expect_operator(")");
    return result;
  }
  result.name = expect_identifier();
  for (const std::string_view constant : {"true", "True", "false", "False", "none", "None"})
    if (result.name == constant)
      fail_at(result.place, fmt::format("can't assign to '{}'", constant));
  if (with_attribute && skip_operator(".")) result.attribute = expect_identifier();
  return result;
}

}  // namespace tandem::jinja
