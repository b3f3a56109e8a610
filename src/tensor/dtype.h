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
  kBool,
  // 8-bit floats as on disk: E4M3 without infinities (OCP's, PyTorch's float8_e4m3fn), and E5M2.
  kF8E4M3,
  kF8E5M2
};

// Bytes per element.
std::size_t size_of(DType dtype) noexcept;
// The name that safetensors uses: "F32".
std::string_view to_string(DType dtype) noexcept;
// True for F32, F16, BF16, F64, F8_E4M3 and F8_E5M2.
bool is_float(DType dtype) noexcept;
// True for F8_E4M3 and F8_E5M2.
bool is_f8(DType dtype) noexcept;

// The type with the safetensors name `name`; throws kUnsupported with the name.
DType dtype_from_string(std::string_view name);

}  // namespace tandem
