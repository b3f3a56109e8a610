// The float values that a scheme's codes would stand for, without making the codes: what searches
// judge their candidates by.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "quantize/recipe.h"
#include "tensor/row_source.h"

namespace tandem {

class FakeQuantizer {
 public:
  // Throws kInvalidArgument unless the scheme's group divides `columns`.
  FakeQuantizer(const Scheme& scheme, std::int64_t columns);

  // Columns that share a scale.
  std::int64_t group() const noexcept { return group_; }
  // In place: one group of weights, by the formulas of rtn.h; each value is rounded to the scales'
  // type before and after. Of int4 in blocks it is a block that alone makes up its row. Thread-safe
  // with one `codes` (of group() bytes) per thread.
  void quantize_group(std::span<float> weights, std::span<std::uint8_t> codes) const;
  // All rows, row-major.
  std::vector<float> quantize_rows(const RowSource& rows, ThreadPool& pool) const;

 private:
  Scheme scheme_;
  std::int64_t group_;
};

}  // namespace tandem
