// A typed, shaped, read-only block of memory that shares ownership of whatever keeps it alive
// (usually a mapping).
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

class MappedFile;

using Shape = std::vector<std::int64_t>;

// "[2048, 8192]".
std::string to_string(const Shape& shape);
// 1 for a scalar.
std::int64_t element_count(const Shape& shape) noexcept;
// The size in bytes of a tensor whose shape comes from a file; nullopt if a dimension is negative
// or the product overflows int64.
std::optional<std::int64_t> checked_bytes(DType dtype, const Shape& shape) noexcept;

// Row-major and contiguous. Copying shares the memory.
class Tensor {
 public:
  Tensor() = default;
  // `bytes` must hold exactly the shape's elements and stay valid as long as `owner` does.
  Tensor(DType dtype, Shape shape, std::span<const std::byte> bytes,
         std::shared_ptr<const void> owner);
  // `bytes` lies in the mapping of `file`, which is kept alive and remembered as the elements'
  // origin.
  Tensor(DType dtype, Shape shape, std::span<const std::byte> bytes,
         std::shared_ptr<const MappedFile> file);
  // `bytes` is kept alive by other means.
  Tensor(DType dtype, Shape shape, std::span<const std::byte> bytes, std::nullptr_t);

  // New memory, 64-byte aligned and uninitialised; write to it through `data`.
  static Tensor allocate(DType dtype, Shape shape, std::byte** data);
  // F32, copied.
  static Tensor from_floats(std::span<const float> values, Shape shape);

  bool empty() const noexcept { return data_ == nullptr; }
  DType dtype() const noexcept { return dtype_; }
  const Shape& shape() const noexcept { return shape_; }
  std::int64_t dim(int i) const noexcept { return shape_[static_cast<std::size_t>(i)]; }
  std::int64_t elements() const noexcept { return element_count(shape_); }
  std::span<const std::byte> bytes() const noexcept {
    return {data_, empty() ? 0 : static_cast<std::size_t>(elements()) * size_of(dtype_)};
  }

  // The file whose mapping holds the elements; null if they are not mapped.
  const MappedFile* file() const noexcept { return file_; }
  // Identifies the elements' bytes: by file, offset and size or, for memory from allocate(), by a
  // number valid as long as the process runs. Equal identities, equal bytes. Empty for other
  // memory.
  std::string identity() const;
  // Releases the memory used by a mapped tensor; it is read again when next needed.
  void release() const noexcept;

  // Typed access; T must match the dtype's size (asserted).
  template <typename T>
  std::span<const T> as() const noexcept {
    assert(empty() || sizeof(T) == size_of(dtype_));
    return {reinterpret_cast<const T*>(data_), empty() ? 0 : static_cast<std::size_t>(elements())};
  }

  // A float32 copy of elements [begin, begin + count) of a float tensor (F32, F16, BF16, F64,
  // F8_E4M3, F8_E5M2).
  void copy_floats(std::int64_t begin, std::span<float> out) const;
  std::vector<float> to_floats() const;
  // An F16 copy of a float tensor, rounded to nearest even; exact for 8-bit floats.
  Tensor to_f16() const;

  // Rows [begin, begin + count) of the first dimension, sharing memory.
  Tensor rows(std::int64_t begin, std::int64_t count) const;
  // The same bytes as elements of another type or shape, sharing memory. Throws kInvalidArgument
  // unless they fill that shape exactly and are aligned for that type.
  Tensor view_as(DType dtype, Shape shape) const;
  // A copy of the given rows of the first dimension, in the given order.
  Tensor gather_rows(std::span<const std::int64_t> rows) const;
  // A copy of the rows of several tensors, one after the other. Throws kInvalidArgument for none, or
  // unless they agree in type and all dimensions but the first.
  static Tensor join_rows(std::span<const Tensor> parts);

 private:
  DType dtype_ = DType::kF32;
  Shape shape_;
  const std::byte* data_ = nullptr;
  std::shared_ptr<const void> owner_;
  // Kept by owner_.
  const MappedFile* file_ = nullptr;
  // The number of the allocation, if the memory is from allocate(); else 0.
  std::uint64_t allocation_ = 0;
};

}  // namespace tandem
