// The five behaviours of the Hugging Face library, including their corner cases.
#include "text/tokenizer/split.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "text/tokenizer/tokenizer_json.h"

namespace tandem {
namespace {

struct Part {
  TextSpan range;
  bool matched;
};

// Divides [0, size) into parts in order. Empty matches are parts, because some behaviours split at
// them.
std::vector<Part> parts_of(std::size_t size, const std::vector<TextSpan>& matches, bool invert) {
  std::vector<Part> parts;
  parts.reserve(2 * matches.size() + 1);
  std::size_t done = 0;
  for (const TextSpan& match : matches) {
    if (match.begin > done) parts.push_back({{done, match.begin}, invert});
    parts.push_back({match, !invert});
    done = match.end;
  }
  if (done < size) parts.push_back({{done, size}, invert});
  return parts;
}

// Merges each part for which `joins(part, previous part matched)` is true with the part before it.
template <typename Joins>
std::vector<TextSpan> join(const std::vector<Part>& parts, Joins joins) {
  std::vector<TextSpan> ranges;
  bool previous_matched = false;
  for (const Part& part : parts) {
    if (joins(part, previous_matched) && !ranges.empty()) {
      TextSpan& last = ranges.back();
      last = {std::min(last.begin, part.range.begin), std::max(last.end, part.range.end)};
    } else {
      ranges.push_back(part.range);
    }
    previous_matched = part.matched;
  }
  return ranges;
}

}  // namespace

SplitBehavior get_split_behavior(const JsonObject& config, std::string_view key) {
  const std::string name = config.get_string(key);
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  fail(ErrorCode::kFormat,
       "[tokenizer] {}: expected Removed, Isolated, MergedWithPrevious, MergedWithNext or "
       "Contiguous, got \"{}\"",
       key_place(config, key), name);
}

void append_split(std::size_t size, const std::vector<TextSpan>& matches, SplitBehavior behavior,
                  bool invert, std::size_t offset, std::vector<TextSpan>& pieces) {
  const auto keep = [&](TextSpan range) {
    if (range.size() > 0) pieces.push_back({range.begin + offset, range.end + offset});
  };
  if (behavior == SplitBehavior::kIsolated) {
    // The common case needs no list of parts: matched and unmatched text are treated the same.
    std::size_t done = 0;
    for (const TextSpan& match : matches) {
      keep({done, match.begin});
      keep(match);
      done = match.end;
    }
    keep({done, size});
    return;
  }
  std::vector<Part> parts = parts_of(size, matches, invert);
  const auto merges = [](const Part& part, bool previous) { return part.matched && !previous; };
  std::vector<TextSpan> ranges;
  switch (behavior) {
    case SplitBehavior::kRemoved:
      for (const Part& part : parts)
        if (!part.matched) ranges.push_back(part.range);
      break;
    case SplitBehavior::kMergedWithPrevious:
      ranges = join(parts, merges);
      break;
    case SplitBehavior::kMergedWithNext:
      std::reverse(parts.begin(), parts.end());
      ranges = join(parts, merges);
      std::reverse(ranges.begin(), ranges.end());
      break;
    case SplitBehavior::kContiguous:
      ranges =
          join(parts, [](const Part& part, bool previous) { return part.matched == previous; });
      break;
    case SplitBehavior::kIsolated:
      break;
  }
  for (const TextSpan& range : ranges) keep(range);
}

}  // namespace tandem
