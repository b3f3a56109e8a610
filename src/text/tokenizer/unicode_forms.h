// Unicode normalization forms.
#pragma once

#include <string>

namespace tandem {

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

// Brings valid UTF-8 into the form, in time O(n log n) even for a text of combining marks only.
void normalize_unicode(std::string& text, UnicodeForm form);

}  // namespace tandem
