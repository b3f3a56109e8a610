// What becomes of the matches of a pattern when text is split at them.
#pragma once

#include <vector>

#include "base/json.h"
#include "text/tokenizer/unicode.h"

namespace tandem {

enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// "Isolated" or one of the others at `key`; kFormat otherwise.
SplitBehavior get_split_behavior(const JsonObject& config, std::string_view key);

// Appends the pieces of [0, size) given the matches in it; with `invert` what lies between the
// matches counts as matched. Empty pieces are left out. `offset` is added to all places.
void append_split(std::size_t size, const std::vector<TextSpan>& matches, SplitBehavior behavior,
                  bool invert, std::size_t offset, std::vector<TextSpan>& pieces);

}  // namespace tandem
