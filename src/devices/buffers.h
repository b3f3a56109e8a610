// How the rows of a value are laid out in memory.
//
// Floats, int16 and int32 are plain row-major matrices. Int8 codes have the kernels' layout: first
// the int32 sum of each row's codes, then the rows, code_stride(width) bytes apart and zero-padded.
#pragma once

#include <cstddef>
#include <cstdint>

#include "graph/graph.h"
#include "kernels/panels.h"

namespace tandem {

inline constexpr std::int64_t kBufferAlignment = 64;

constexpr std::int64_t align_up(std::int64_t bytes) noexcept {
  return (bytes + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment;
}

// Bytes from one row of int8 codes to the next: an odd number of cache lines, because rows a power
// of two apart would map to the same few cache sets.
constexpr std::int64_t code_stride(std::int64_t k) noexcept {
  const std::int64_t bytes = padded_k(k);
  return bytes / 64 % 2 == 0 ? bytes + 64 : bytes;
}

// A buffer of int8 codes with room for `max_rows` rows.
struct CodeRows {
  std::int32_t* sums = nullptr;
  std::int8_t* codes = nullptr;
  std::int64_t stride = 0;

  CodeRows(std::byte* buffer, std::int64_t width, std::int64_t max_rows) noexcept
      : sums(reinterpret_cast<std::int32_t*>(buffer)),
        codes(reinterpret_cast<std::int8_t*>(buffer + align_up(max_rows * 4))),
        stride(code_stride(width)) {}
};

// Size of a buffer for `rows` rows of a value, a multiple of kBufferAlignment.
inline std::int64_t buffer_bytes(const Value& value, std::int64_t rows) noexcept {
  if (value.dtype == DType::kI8) return align_up(rows * 4) + rows * code_stride(value.width);
  return align_up(rows * value.width * static_cast<std::int64_t>(size_of(value.dtype)));
}

}  // namespace tandem
