// Runs a small decoder on sequences of a cache.
#pragma once

#include <memory>
#include <vector>

#include "devices/small_graph.h"
#include "execute/executor.h"
#include "execute/kv_pool.h"

namespace tandem::testing {

inline std::vector<std::int32_t> row_numbers(std::int64_t rows) {
  std::vector<std::int32_t> numbers;
  for (std::int64_t r = 0; r < rows; ++r) numbers.push_back(static_cast<std::int32_t>(r));
  return numbers;
}

// Logits of the selected rows, which stay in the arena until its next run.
inline std::span<const float> run_graph(const Executor& executor, Arena& arena,
                                        std::span<const std::int32_t> ids,
                                        std::span<const SequenceSlice> slices,
                                        std::span<const std::int32_t> selected) {
  const void* const inputs[] = {ids.data(), selected.data()};
  const std::int64_t rows[] = {static_cast<std::int64_t>(ids.size()),
                               static_cast<std::int64_t>(selected.size())};
  executor.run({inputs, rows, slices}, arena);
  return {executor.output(arena, 0), selected.size() * SmallSizes{}.vocabulary};
}

inline SequenceSlice slice_of(const KvSequence& sequence, std::int64_t rows,
                              std::int64_t first_row = 0) {
  return {first_row, rows, sequence.length(), sequence.view()};
}

// Reads `ids` after what is in `sequence`, and returns the logits of all rows.
inline std::vector<float> read_all(const Executor& executor, Arena& arena, KvSequence& sequence,
                                   std::span<const std::int32_t> ids) {
  const auto rows = static_cast<std::int64_t>(ids.size());
  sequence.reserve(rows);
  const SequenceSlice slice = slice_of(sequence, rows);
  const auto logits = run_graph(executor, arena, ids, {&slice, 1}, row_numbers(rows));
  sequence.advance(ids);
  return {logits.begin(), logits.end()};
}

inline std::shared_ptr<KvPool> small_kv_pool(DType dtype = DType::kF16) {
  const SmallSizes sizes;
  return std::make_shared<KvPool>(KvShape{sizes.layers, sizes.kv_heads, sizes.head_dim, dtype});
}

}  // namespace tandem::testing
