// Names of modules against patterns, as recipes write them.
#pragma once

#include <optional>
#include <string>

#include "text/tokenizer/pattern.h"

namespace tandem {

// A pattern, compiled once for matching many names: a full name, one with * and ?, or "re:" and a
// regular expression that matches somewhere in the name.
class ModuleMatch {
 public:
  // Throws kFormat for a regular expression that is malformed. `pattern` must outlive this object.
  explicit ModuleMatch(const std::string& pattern);

  bool matches(const std::string& module);

 private:
  const std::string& pattern_;
  std::optional<Pattern> regex_;
  std::optional<PatternSearch> search_;
};

}  // namespace tandem
