// Element types of tensors on disk and in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace tandem {

enum class DType : std::uint8_t {
  kF32,
  kF16,
  kBF16,
  kF64,
  kI8,
  kU8,
  kI16,
  kU16,
  kI32,
  kU32,
  kI64,
  kU64,
  kBool
};

std::size_t size_of(DType dtype) noexcept;         // bytes of one element
std::string_view to_string(DType dtype) noexcept;  // "F32", as safetensors spells it
bool is_float(DType dtype) noexcept;               // F32, F16, BF16 or F64

// The type that safetensors calls `name`; throws kUnsupported with the name.
DType dtype_from_string(std::string_view name);

}  // namespace tandem
