// Regular expressions of tokenizer.json are written for Oniguruma with Ruby's syntax; PCRE2 runs
// them here.
#pragma once

#include <string>
#include <string_view>

namespace tandem {

// The same expression for PCRE2 with UTF, UCP and MULTILINE. What the two read differently is
// rewritten: \s, \w, \d,
// \h, \uHHHH, (?m). What can't be (set intersection, nested sets, "{n,m}+") throws kUnsupported
// naming `place`.
std::string to_pcre2(std::string_view oniguruma, std::string_view place);

}  // namespace tandem
