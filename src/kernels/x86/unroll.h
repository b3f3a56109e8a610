// Loops unrolled at compile time: an array of accumulators indexed only by constants is kept in
// registers. As in all headers of this folder, everything is local to the including file, so that
// no function compiled for one instruction set can replace another's at link time.
#pragma once

#include <cstdint>
#include <utility>

#define TANDEM_INLINE __attribute__((always_inline))

namespace tandem {
namespace {

template <typename Body, int... kIndex>
TANDEM_INLINE inline void unroll_over(std::integer_sequence<int, kIndex...>, const Body& body) {
  (body(std::integral_constant<int, kIndex>{}), ...);
}

// Calls body(0), …, body(kCount - 1), each with its index as a constant.
template <int kCount, typename Body>
TANDEM_INLINE inline void unroll(const Body& body) {
  unroll_over(std::make_integer_sequence<int, kCount>{}, body);
}

// Calls body(constant) with the constant in [1, kMax] that equals `count`.
template <int kMax, typename Body>
TANDEM_INLINE inline void with_constant(std::int64_t count, const Body& body) {
  unroll<kMax>([&](auto i) TANDEM_INLINE {
    if (count == i + 1) body(std::integral_constant<int, i + 1>{});
  });
}

// Calls body(first row, count) for [0, rows), split into the fewest pieces of at most `most` rows,
// with sizes that differ by at most one.
template <typename Body>
TANDEM_INLINE inline void for_row_blocks(std::int64_t rows, std::int64_t most, const Body& body) {
  const std::int64_t blocks = (rows + most - 1) / most;
  for (std::int64_t b = 0, first = 0; b < blocks; ++b) {
    const std::int64_t count = rows / blocks + (b < rows % blocks ? 1 : 0);
    body(first, count);
    first += count;
  }
}

}  // namespace
}  // namespace tandem
