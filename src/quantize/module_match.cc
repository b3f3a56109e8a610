// fnmatch() or PCRE2.
#include "quantize/module_match.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <string_view>
#include <vector>

#include "base/printable.h"

namespace tandem {
namespace {

constexpr std::string_view kRegexMark = "re:";

}  // namespace

ModuleMatch::ModuleMatch(const std::string& pattern) : pattern_(pattern) {
  if (!pattern.starts_with(kRegexMark)) return;
  regex_.emplace(Pattern::regex(pattern.substr(kRegexMark.size()),
                                fmt::format("[recipe] \"{}\"", printable(pattern))));
  search_.emplace(*regex_);
}

bool ModuleMatch::matches(const std::string& module) {
  if (!search_) return ::fnmatch(pattern_.c_str(), module.c_str(), 0) == 0;
  std::vector<TextSpan> found;
  search_->find_all(module, found);
  return !found.empty();
}

}  // namespace tandem
