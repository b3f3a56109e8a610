// A stable sort that is safe under any comparison: std::sort may run out of bounds if a comparison
// is inconsistent, as one of hostile values can be, and std::stable_sort of libstdc++ 12 uses
// features deprecated in C++20.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>
#include <vector>

namespace tandem {

// Sorts so that no b with before(b, a) follows a; equal items keep their order. If `before` throws,
// the items are in an unspecified order, and some may be moved-from.
template <typename T, typename Before>
void merge_sort(std::vector<T>& items, const Before& before) {
  std::vector<T> merged;
  merged.reserve(items.size());
  for (std::size_t width = 1; width < items.size(); width *= 2) {
    merged.clear();
    for (std::size_t first = 0; first < items.size(); first += 2 * width) {
      const auto at = [&](std::size_t i) {
        return std::make_move_iterator(items.begin() +
                                       static_cast<std::ptrdiff_t>(std::min(i, items.size())));
      };
      std::merge(at(first), at(first + width), at(first + width), at(first + 2 * width),
                 std::back_inserter(merged), before);
    }
    items.swap(merged);
  }
}

}  // namespace tandem
