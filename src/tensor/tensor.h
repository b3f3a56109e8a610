// A typed, shaped, read-only block of memory with shared ownership of whatever keeps it alive (a
// mapping, usually).
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace tandem {

using Shape = std::vector<std::int64_t>;

std::string to_string(const Shape& shape);                // "[2048, 8192]"
std::int64_t element_count(const Shape& shape) noexcept;  // 1 for a scalar
// Bytes of a tensor whose shape comes from a file; nothing if a dimension is negative or the
// product leaves int64.
std::optional<std::int64_t> checked_bytes(DType dtype, const Shape& shape) noexcept;

// Row-major and contiguous. Copying shares the memory.
class Tensor {
 public:
  Tensor() = default;
  // `bytes` must hold exactly the shape's elements and stay valid as long as `owner` does.
  Tensor(DType dtype, Shape shape, std::span<const std::byte> bytes,
         std::shared_ptr<const void> owner);

  // Own memory, 64-byte aligned, uninitialised; fill through `data`.
  static Tensor allocate(DType dtype, Shape shape, std::byte** data);
  static Tensor from_floats(std::span<const float> values, Shape shape);  // F32, copied

  bool empty() const noexcept { return data_ == nullptr; }
  DType dtype() const noexcept { return dtype_; }
  const Shape& shape() const noexcept { return shape_; }
  std::int64_t dim(int i) const noexcept { return shape_[static_cast<std::size_t>(i)]; }
  std::int64_t elements() const noexcept { return element_count(shape_); }
  std::span<const std::byte> bytes() const noexcept {
    return {data_, empty() ? 0 : static_cast<std::size_t>(elements()) * size_of(dtype_)};
  }

  // Typed access; T must match the dtype's size (asserted).
  template <typename T>
  std::span<const T> as() const noexcept {
    assert(empty() || sizeof(T) == size_of(dtype_));
    return {reinterpret_cast<const T*>(data_), empty() ? 0 : static_cast<std::size_t>(elements())};
  }

  // A float32 copy of elements [begin, begin + count) of a float tensor (F32, F16, BF16, F64).
  void copy_floats(std::int64_t begin, std::span<float> out) const;
  std::vector<float> to_floats() const;

  // Rows [begin, begin + count) of the first dimension, sharing memory.
  Tensor rows(std::int64_t begin, std::int64_t count) const;
  // A copy of the given rows of the first dimension, in their order.
  Tensor gather_rows(std::span<const std::int64_t> rows) const;

 private:
  DType dtype_ = DType::kF32;
  Shape shape_;
  const std::byte* data_ = nullptr;
  std::shared_ptr<const void> owner_;
};

}  // namespace tandem
