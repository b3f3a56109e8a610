// Rows of tensors as floats.
#include "checkpoint/float_rows.h"

#include <algorithm>

#include "base/error.h"
#include "base/printable.h"

namespace tandem {
namespace {

constexpr std::int64_t kFloatsAtOnce = std::int64_t{1} << 20;

}  // namespace

FloatRows::FloatRows(const Checkpoint& checkpoint, const std::string& name, const Shape& shape) {
  if (checkpoint.tensors().contains(name) && checkpoint.tensors().at(name).shape == shape) {
    tensor_ = checkpoint.load(name);
  } else if (shape.size() == 2 && name.ends_with(".weight")) {
    weight_ = checkpoint.linear(name.substr(0, name.size() - 7), shape[0], shape[1]);
  } else {
    tensor_ = checkpoint.tensor(name, shape);
  }
  if (!tensor_.empty() && !is_float(tensor_.dtype()))
    fail(ErrorCode::kUnsupported, "[checkpoint] {}: {}: expected floats, got {}",
         checkpoint.path().string(), printable(name), to_string(tensor_.dtype()));
  rows_ = shape.size() < 2 ? 1 : shape[0];
  columns_ = rows_ == 0 ? 0 : element_count(shape) / rows_;
  rows_at_once_ = std::max<std::int64_t>(1, kFloatsAtOnce / std::max<std::int64_t>(1, columns_));
}

std::vector<float> FloatRows::read(std::int64_t begin, std::int64_t count) const {
  if (tensor_.empty()) return dequantize_rows(weight_, begin, count);
  std::vector<float> values(static_cast<std::size_t>(count * columns_));
  tensor_.copy_floats(begin * columns_, values);
  return values;
}

}  // namespace tandem
