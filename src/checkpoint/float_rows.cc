// Reading rows of tensors as floats.
#include "checkpoint/float_rows.h"

#include <algorithm>

namespace tandem {
namespace {

constexpr std::int64_t kFloatsAtOnce = std::int64_t{1} << 20;

template <typename T>
void copy_as(const Tensor& tensor, std::int64_t begin, std::span<float> out) {
  const auto from = tensor.as<T>().subspan(static_cast<std::size_t>(begin), out.size());
  std::ranges::transform(from, out.begin(), [](T value) { return static_cast<float>(value); });
}

void copy_integers(const Tensor& tensor, std::int64_t begin, std::span<float> out) {
  switch (tensor.dtype()) {
    case DType::kI8:
      return copy_as<std::int8_t>(tensor, begin, out);
    case DType::kI16:
      return copy_as<std::int16_t>(tensor, begin, out);
    case DType::kU16:
      return copy_as<std::uint16_t>(tensor, begin, out);
    case DType::kI32:
      return copy_as<std::int32_t>(tensor, begin, out);
    case DType::kU32:
      return copy_as<std::uint32_t>(tensor, begin, out);
    case DType::kI64:
      return copy_as<std::int64_t>(tensor, begin, out);
    case DType::kU64:
      return copy_as<std::uint64_t>(tensor, begin, out);
    default:
      return copy_as<std::uint8_t>(tensor, begin, out);
  }
}

}  // namespace

FloatRows::FloatRows(const Checkpoint& checkpoint, const std::string& name, const Shape& shape) {
  if (checkpoint.is_stored_plainly(name, shape)) {
    tensor_ = checkpoint.load(name);
  } else if (shape.size() == 2 && name.ends_with(".weight")) {
    weight_ = checkpoint.linear(name.substr(0, name.size() - 7), shape[0], shape[1]);
  } else {
    tensor_ = checkpoint.tensor(name, shape);
  }
  rows_ = shape.size() < 2 ? 1 : shape[0];
  columns_ = rows_ == 0 ? 0 : element_count(shape) / rows_;
  rows_at_once_ = std::max<std::int64_t>(1, kFloatsAtOnce / std::max<std::int64_t>(1, columns_));
}

std::vector<float> FloatRows::read(std::int64_t begin, std::int64_t count) const {
  if (tensor_.empty()) return dequantize_rows(weight_, begin, count);
  std::vector<float> values(static_cast<std::size_t>(count * columns_));
  if (is_float(tensor_.dtype())) {
    tensor_.copy_floats(begin * columns_, values);
  } else {
    copy_integers(tensor_, begin * columns_, values);
  }
  return values;
}

}  // namespace tandem
