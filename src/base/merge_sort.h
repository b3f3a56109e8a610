// A stable sort that no comparison can lead astray: std::sort may leave its range where a
// comparison contradicts itself, as one of hostile values can, and std::stable_sort of libstdc++ 12
// uses what C++20 deprecates.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>
#include <vector>

namespace tandem {

// Sorts so that `before(a, b)` holds for no b in front of a; equal items keep their order. If
// `before` throws, the items are those from before in some order, some of them moved from.
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
