// Regular expressions in tokenizer.json use Oniguruma's Ruby syntax; here they are run by PCRE2.
#pragma once

#include <string>
#include <string_view>

namespace tandem {

// Translates an expression for PCRE2 with UTF, UCP and MULTILINE. Constructs that differ are
// rewritten: \s, \w, \d, \h, \uHHHH, (?m). Those that can't be (set intersection, nested sets,
// "{n,m}+") throw kUnsupported naming `place`.
std::string to_pcre2(std::string_view oniguruma, std::string_view place);

}  // namespace tandem
