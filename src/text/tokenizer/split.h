// How text is split at the matches of a pattern.
#pragma once

#include <vector>

#include "base/json.h"
#include "text/tokenizer/unicode.h"

namespace tandem {

enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// "Isolated" or one of the others at `key`; throws kFormat otherwise.
SplitBehavior get_split_behavior(const JsonObject& config, std::string_view key);

// Appends the pieces of [0, size) given the matches in it; with `invert` the text between the
// matches counts as matched. Empty pieces are dropped. `offset` is added to all positions.
void append_split(std::size_t size, const std::vector<TextSpan>& matches, SplitBehavior behavior,
                  bool invert, std::size_t offset, std::vector<TextSpan>& pieces);

}  // namespace tandem
