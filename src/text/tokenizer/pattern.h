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
  // `place` names the expression in errors. Throws kFormat if the expression is malformed.
  static Pattern regex(std::string_view expression, std::string place);
  static Pattern literal(std::string text);

  ~Pattern();
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;

 private:
  friend class PatternSearch;
  struct Regex;
  Pattern();
  // Searched for if there is no regex.
  std::string literal_;
  std::unique_ptr<Regex> regex_;
};

// A search with its working memory, for one thread and the texts of one encode() call. Work is
// bounded: an expression that backtracks without end throws kUnsupported, by PCRE2's match limit or
// by CPU time.
class PatternSearch {
 public:
  explicit PatternSearch(const Pattern& pattern);
  ~PatternSearch();
  PatternSearch(PatternSearch&&) noexcept;

  // Appends the matches in `text` (valid UTF-8), in order and non-overlapping. An empty match
  // counts unless it is adjacent to the previous match.
  void find_all(std::string_view text, std::vector<TextSpan>& matches);

 private:
  struct State;
  const Pattern* pattern_;
  // Null for literals.
  std::unique_ptr<State> state_;
};

// Replaces every match by `content`.
void replace_all(const Pattern& pattern, std::string_view content, std::string& text);

}  // namespace tandem
