// The float values of any tensor of a checkpoint, a few rows at a time, for writing it in another
// format.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace tandem {

class FloatRows {
 public:
  // `name` and `shape` as in Checkpoint::contents(). Integers are converted to the nearest floats.
  FloatRows(const Checkpoint& checkpoint, const std::string& name, const Shape& shape);

  // 1 for a vector.
  std::int64_t rows() const noexcept { return rows_; }
  // Elements per row, over all inner dimensions.
  std::int64_t columns() const noexcept { return columns_; }
  // Rows that make up a few megabytes.
  std::int64_t rows_at_once() const noexcept { return rows_at_once_; }
  std::vector<float> read(std::int64_t begin, std::int64_t count) const;

 private:
  // If it is a packed matrix.
  Weight weight_;
  // Otherwise.
  Tensor tensor_;
  std::int64_t rows_ = 1;
  std::int64_t columns_ = 0;
  std::int64_t rows_at_once_ = 1;
};

}  // namespace tandem
