// The float values of any tensor of a checkpoint, some rows at a time, for writing it in another
// form.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace tandem {

class FloatRows {
 public:
  // `name` and `shape` as in Checkpoint::contents(). Integers become the nearest floats.
  FloatRows(const Checkpoint& checkpoint, const std::string& name, const Shape& shape);

  std::int64_t rows() const noexcept { return rows_; }        // 1 for a vector
  std::int64_t columns() const noexcept { return columns_; }  // of a row, all inner dimensions
  std::int64_t rows_at_once() const noexcept { return rows_at_once_; }  // a few megabytes
  std::vector<float> read(std::int64_t begin, std::int64_t count) const;

 private:
  Weight weight_;  // of a packed matrix
  Tensor tensor_;  // of everything else
  std::int64_t rows_ = 1;
  std::int64_t columns_ = 0;
  std::int64_t rows_at_once_ = 1;
};

}  // namespace tandem
