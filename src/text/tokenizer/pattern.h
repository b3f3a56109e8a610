// What a tokenizer searches for in text: a literal or a regular expression.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/tokenizer/unicode.h"

namespace tandem {

class Pattern {
 public:
  // {"String": "…"} or {"Regex": "…"} at `key` of a component.
  static Pattern from_json(const JsonObject& component, std::string_view key);
  // `place` names the expression in errors. Throws kFormat if it is malformed.
  static Pattern regex(std::string_view expression, std::string place);
  static Pattern literal(std::string text);

  ~Pattern();
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;

 private:
  friend class PatternSearch;
  struct Regex;
  Pattern();
  std::string literal_;  // searched for unless there is a regex
  std::unique_ptr<Regex> regex_;
};

// A search with its working memory: one thread, and as many texts as belong to one encode. Work is
// bounded: an expression that backtracks without end throws kUnsupported, by PCRE2's match limit or
// by processor time.
class PatternSearch {
 public:
  explicit PatternSearch(const Pattern& pattern);
  ~PatternSearch();
  PatternSearch(PatternSearch&&) noexcept;

  // Appends the matches in `text` (valid UTF-8), in order and not overlapping. An empty match
  // counts unless it touches the match before it.
  void find_all(std::string_view text, std::vector<TextSpan>& matches);

 private:
  struct State;
  const Pattern* pattern_;
  std::unique_ptr<State> state_;  // none for literals
};

// Puts `content` in place of every match.
void replace_all(const Pattern& pattern, std::string_view content, std::string& text);

}  // namespace tandem
