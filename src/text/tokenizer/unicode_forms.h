// Unicode normalization forms.
#pragma once

#include <string>

namespace tandem {

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

// Converts valid UTF-8 to the given form, in O(n log n) even for a text that consists only of
// combining marks.
void normalize_unicode(std::string& text, UnicodeForm form);

}  // namespace tandem
