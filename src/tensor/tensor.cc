// Tensors: checks, allocation, conversion to float.
#include "tensor/tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <new>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "tensor/half.h"

namespace tandem {
namespace {

// A cache line, and the widest vector register.
constexpr std::size_t kAlignment = 64;
// Weights are read once per token or chunk from front to back: with pages of 2 MiB that takes a
// page-table walk every 32,768 cache lines instead of every 64.
constexpr std::size_t kHugePage = std::size_t{2} << 20;

// What a tensor without elements points to, so that it is not taken for a missing tensor.
constexpr std::byte kNothing{};

template <typename T, typename Convert>
void convert(const std::byte* from, std::span<float> out, Convert to_float) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, from + i * sizeof(T), sizeof(T));
    out[i] = to_float(value);
  }
}

}  // namespace

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

std::int64_t element_count(const Shape& shape) noexcept {
  std::int64_t count = 1;
  for (const std::int64_t dim : shape) count *= dim;
  return count;
}

std::optional<std::int64_t> checked_bytes(DType dtype, const Shape& shape) noexcept {
  bool none = false;
  auto left = std::numeric_limits<std::int64_t>::max() / static_cast<std::int64_t>(size_of(dtype));
  for (const std::int64_t dim : shape) {
    if (dim < 0) return std::nullopt;
    if (dim == 0) {
      none = true;
      continue;
    }
    // A product that overflows is rejected even if another dimension is 0: element_count() would
    // overflow on its way to 0.
    left /= dim;
    if (left == 0) return std::nullopt;
  }
  return none ? 0 : element_count(shape) * static_cast<std::int64_t>(size_of(dtype));
}

Tensor::Tensor(DType dtype, Shape shape, std::span<const std::byte> bytes,
               std::shared_ptr<const void> owner)
    : dtype_(dtype), shape_(std::move(shape)), data_(bytes.data()), owner_(std::move(owner)) {
  const auto expected = checked_bytes(dtype_, shape_);
  if (!expected)
    fail(ErrorCode::kInvalidArgument, "[tensor] shape {} is not possible", to_string(shape_));
  if (static_cast<std::size_t>(*expected) != bytes.size())
    fail(ErrorCode::kInvalidArgument, "[tensor] {} {} has {} bytes, got {}", to_string(dtype_),
         to_string(shape_), *expected, bytes.size());
  if (bytes.empty()) data_ = &kNothing;
}

Tensor::Tensor(DType dtype, Shape shape, std::span<const std::byte> bytes,
               std::shared_ptr<const MappedFile> file)
    : Tensor(dtype, std::move(shape), bytes, std::shared_ptr<const void>(file)) {
  file_ = file.get();
  if (file_ == nullptr || bytes.empty()) return;
  const auto whole = file_->bytes();
  const std::less_equal<> not_after;
  if (!not_after(whole.data(), bytes.data()) ||
      !not_after(bytes.data() + bytes.size(), whole.data() + whole.size()))
    fail(ErrorCode::kInvalidArgument, "[tensor] {}: expected elements within the mapped file",
         file_->path().string());
}

Tensor::Tensor(DType dtype, Shape shape, std::span<const std::byte> bytes, std::nullptr_t)
    : Tensor(dtype, std::move(shape), bytes, std::shared_ptr<const void>()) {}

std::string Tensor::identity() const {
  const std::size_t size = bytes().size();
  if (file_ == nullptr)
    return allocation_ == 0 ? ""
                            : fmt::format("memory {}@{}+{}", allocation_, fmt::ptr(data_), size);
  const std::ptrdiff_t offset = size == 0 ? 0 : data_ - file_->bytes().data();
  return fmt::format("{}@{}+{}", file_->identity(), offset, size);
}

Tensor Tensor::allocate(DType dtype, Shape shape, std::byte** data) {
  const auto bytes = checked_bytes(dtype, shape);
  if (!bytes || *bytes > std::numeric_limits<std::int64_t>::max() - std::int64_t{kAlignment})
    fail(ErrorCode::kInvalidArgument, "[tensor] shape {} is not possible", to_string(shape));
  const auto size = static_cast<std::size_t>(*bytes);
  const std::size_t alignment = size >= kHugePage ? kHugePage : kAlignment;
  const std::size_t padded = std::max(alignment, (size + alignment - 1) / alignment * alignment);
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(alignment, padded));
  if (memory == nullptr) throw std::bad_alloc();
  // Only a hint: without huge pages, nothing changes.
  if (alignment == kHugePage) ::madvise(memory, padded, MADV_HUGEPAGE);
  std::shared_ptr<void> owner(memory, [](void* p) { std::free(p); });
  if (data != nullptr) *data = memory;
  static std::atomic<std::uint64_t> allocations = 0;
  Tensor tensor(dtype, std::move(shape), {memory, size}, std::move(owner));
  tensor.allocation_ = ++allocations;
  return tensor;
}

Tensor Tensor::from_floats(std::span<const float> values, Shape shape) {
  const auto bytes = checked_bytes(DType::kF32, shape);
  if (!bytes || static_cast<std::size_t>(*bytes) != values.size_bytes())
    fail(ErrorCode::kInvalidArgument, "[tensor] {} floats do not fill shape {}", values.size(),
         to_string(shape));
  std::byte* data = nullptr;
  Tensor tensor = allocate(DType::kF32, std::move(shape), &data);
  if (!values.empty()) std::memcpy(data, values.data(), values.size_bytes());
  return tensor;
}

void Tensor::copy_floats(std::int64_t begin, std::span<float> out) const {
  const auto count = static_cast<std::int64_t>(out.size());
  if (begin < 0 || begin > elements() || count > elements() - begin)
    fail(ErrorCode::kInvalidArgument, "[tensor] {} elements from {} on: {} {} does not have them",
         count, begin, to_string(dtype_), to_string(shape_));
  const std::byte* from = data_ + static_cast<std::size_t>(begin) * size_of(dtype_);
  switch (dtype_) {
    case DType::kF32:
      if (!out.empty()) std::memcpy(out.data(), from, out.size_bytes());
      return;
    case DType::kF16:
      return convert<std::uint16_t>(from, out, f16_to_float);
    case DType::kBF16:
      return convert<std::uint16_t>(from, out, bf16_to_float);
    case DType::kF64:
      return convert<double>(from, out, [](double value) { return static_cast<float>(value); });
    case DType::kF8E4M3:
      return convert<std::uint8_t>(from, out, f8_e4m3_to_float);
    case DType::kF8E5M2:
      return convert<std::uint8_t>(from, out, f8_e5m2_to_float);
    default:
      fail(ErrorCode::kUnsupported, "[tensor] expected a float tensor, got {} {}",
           to_string(dtype_), to_string(shape_));
  }
}

std::vector<float> Tensor::to_floats() const {
  std::vector<float> values(empty() ? 0 : static_cast<std::size_t>(elements()));
  if (!empty()) copy_floats(0, values);
  return values;
}

Tensor Tensor::to_f16() const {
  const std::vector<float> values = to_floats();
  std::byte* data = nullptr;
  Tensor halves = allocate(DType::kF16, shape_, &data);
  for (const float value : values) {
    const std::uint16_t half = float_to_f16(value);
    std::memcpy(data, &half, sizeof half);
    data += sizeof half;
  }
  return halves;
}

void Tensor::release() const noexcept {
  if (file_ != nullptr && !empty()) file_->release(bytes());
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t count) const {
  if (shape_.empty() || begin < 0 || count < 0 || begin > shape_[0] || count > shape_[0] - begin)
    fail(ErrorCode::kInvalidArgument, "[tensor] {} rows from {} on: shape {} does not have them",
         count, begin, to_string(shape_));
  const std::size_t row_bytes =
      shape_[0] == 0 ? 0 : bytes().size() / static_cast<std::size_t>(shape_[0]);
  Tensor view = *this;
  view.shape_[0] = count;
  view.data_ += static_cast<std::size_t>(begin) * row_bytes;
  return view;
}

Tensor Tensor::view_as(DType dtype, Shape shape) const {
  const auto expected = checked_bytes(dtype, shape);
  if (empty() || !expected || static_cast<std::size_t>(*expected) != bytes().size())
    fail(ErrorCode::kInvalidArgument, "[tensor] the {} bytes of {} {} do not fill {} {}",
         bytes().size(), to_string(dtype_), to_string(shape_), to_string(dtype), to_string(shape));
  if (*expected > 0 && reinterpret_cast<std::uintptr_t>(data_) % size_of(dtype) != 0)
    fail(ErrorCode::kInvalidArgument, "[tensor] {} {} is not aligned for {}", to_string(dtype_),
         to_string(shape_), to_string(dtype));
  Tensor view = *this;
  view.dtype_ = dtype;
  view.shape_ = std::move(shape);
  return view;
}

Tensor Tensor::gather_rows(std::span<const std::int64_t> rows) const {
  Shape shape = shape_;
  if (!shape.empty()) shape[0] = static_cast<std::int64_t>(rows.size());
  std::byte* data = nullptr;
  Tensor gathered = allocate(dtype_, std::move(shape), &data);
  for (const std::int64_t row : rows) {
    const auto bytes = this->rows(row, 1).bytes();
    data = std::copy(bytes.begin(), bytes.end(), data);
  }
  return gathered;
}

Tensor Tensor::join_rows(std::span<const Tensor> parts) {
  if (parts.empty()) fail(ErrorCode::kInvalidArgument, "[tensor] expected rows to join, got none");
  const Tensor& first = parts.front();
  Shape shape = first.shape();
  std::int64_t rows = 0;
  for (const Tensor& part : parts) {
    Shape expected = shape;
    if (!expected.empty() && !part.shape().empty()) expected[0] = part.shape()[0];
    if (expected.empty() || part.dtype() != first.dtype() || part.shape() != expected)
      fail(ErrorCode::kInvalidArgument, "[tensor] {} {} and {} {} are no rows of one tensor",
           to_string(first.dtype()), to_string(first.shape()), to_string(part.dtype()),
           to_string(part.shape()));
    rows += part.shape()[0];
  }
  shape[0] = rows;
  std::byte* data = nullptr;
  Tensor joined = allocate(first.dtype(), std::move(shape), &data);
  for (const Tensor& part : parts) data = std::ranges::copy(part.bytes(), data).out;
  return joined;
}

}  // namespace tandem
