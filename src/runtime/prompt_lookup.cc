// Compares the end of a text with all that stands before it.
#include "runtime/prompt_lookup.h"

#include <algorithm>

namespace tandem {
namespace {

// A single token says little about the next one; beyond eight all say the same.
constexpr std::size_t kShortest = 2;
constexpr std::size_t kLongest = 8;

}  // namespace

std::vector<TokenId> look_up(std::span<const TokenId> text, std::size_t most) {
  std::size_t longest = kShortest - 1;
  std::size_t next = 0;
  // `end` is behind the last token of an earlier run.
  for (std::size_t end = text.size(); end-- > kShortest && longest < kLongest;) {
    std::size_t length = 0;
    while (length < std::min(end, kLongest) &&
           text[end - 1 - length] == text[text.size() - 1 - length])
      ++length;
    if (length <= longest) continue;
    longest = length;
    next = end;
  }
  std::vector<TokenId> draft;
  if (next == 0) return draft;
  for (std::size_t i = 0; i < most; ++i) {
    const std::size_t at = next + i;
    draft.push_back(at < text.size() ? text[at] : draft[at - text.size()]);
  }
  return draft;
}

}  // namespace tandem
