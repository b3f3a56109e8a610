// From tokens to a tree. Expressions are in parse_expression.cc, statements in parse_statement.cc.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/ast.h"

namespace tandem::jinja {

// Parses a template; `name` is used in errors. Throws kFormat with the location.
Body parse(std::string_view source, std::string_view name);

class Parser {
 public:
  Parser(std::string_view source, std::string_view name)
      : name_(name), tokens_(tokenize(source, name)) {}
  Body parse_template();

 private:
  // Tracks the parser's recursion depth; throws at the limit.
  class Level;

  [[noreturn]] void fail_at(const Place& place, const std::string& what) const;
  [[noreturn]] void fail_expected(std::string_view what) const;

  const Token& current() const { return tokens_[position_]; }
  const Token& ahead() const { return tokens_[std::min(position_ + 1, tokens_.size() - 1)]; }
  // Never advances past kEnd.
  Token next();
  bool is_operator(std::string_view text) const;
  bool is_name(std::string_view text) const;
  bool skip_operator(std::string_view text);
  bool skip_name(std::string_view text);
  void expect_operator(std::string_view text);
  void expect_name(std::string_view text);
  void expect_block_end();
  std::string expect_identifier();

  // Makes a node with `children`, each of which may be null.
  template <typename Node>
  ExprPtr make(const Place& place, Node node, std::initializer_list<const Expr*> children = {});
  int depth_of(const CallArguments& arguments) const;
  ExprPtr finish(const Place& place, Expr expr, int depth) const;

  // Includes "a if b else c".
  ExprPtr parse_expression();
  ExprPtr parse_or();
  ExprPtr parse_and();
  ExprPtr parse_not();
  ExprPtr parse_compare();
  ExprPtr parse_sum();
  ExprPtr parse_concat();
  ExprPtr parse_product();
  ExprPtr parse_power();
  ExprPtr parse_unary(bool with_filters);
  ExprPtr parse_primary();
  ExprPtr parse_integer_literal();
  ExprPtr parse_parenthesized();
  ExprPtr parse_list();
  ExprPtr parse_dict();
  ExprPtr parse_postfix(ExprPtr value);
  ExprPtr parse_subscript(ExprPtr value);
  ExprPtr parse_call(ExprPtr callee);
  ExprPtr parse_filters_and_tests(ExprPtr value);
  // After "|".
  ExprPtr parse_filter(ExprPtr value);
  // After "is".
  ExprPtr parse_test(ExprPtr value);
  CallArguments parse_arguments();
  // One expression, or a tuple of them without parentheses. `conditional` allows "a if b".
  ExprPtr parse_tuple(bool conditional = true);
  bool ends_tuple() const;

  Body parse_body(std::initializer_list<std::string_view> ends);
  std::unique_ptr<const Body> parse_block(std::initializer_list<std::string_view> ends);
  Statement parse_statement(const Token& tag);
  Statement parse_set(const Place& place);
  Statement parse_if(const Place& place);
  Statement parse_for(const Place& place);
  Statement parse_macro(const Place& place);
  Statement parse_call_block(const Place& place);
  Statement parse_filter_block(const Place& place);
  Statement parse_with(const Place& place);
  Target parse_target(bool with_attribute);
  Target parse_target_part(bool with_attribute);
  std::vector<Parameter> parse_parameters();
  void parse_macro_body(MacroDefinition& macro, std::string_view end);

  std::string_view name_;
  std::vector<Token> tokens_;
  std::size_t position_ = 0;
  int level_ = 0;
  int statement_level_ = 0;
  // Number of loops around the current statement.
  int loops_ = 0;
  // The macros around the current expression.
  std::vector<MacroDefinition*> macros_;
};

class Parser::Level {
 public:
  explicit Level(Parser& parser);
  ~Level() { --parser_.level_; }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

 private:
  Parser& parser_;
};

template <typename Node>
ExprPtr Parser::make(const Place& place, Node node, std::initializer_list<const Expr*> children) {
  int depth = 0;
  for (const Expr* child : children)
    if (child != nullptr) depth = std::max(depth, child->depth);
  return finish(place, Expr{place, 0, std::move(node)}, depth + 1);
}

}  // namespace tandem::jinja
