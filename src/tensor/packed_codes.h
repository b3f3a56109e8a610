// Rows of integer codes or zero points as GroupCodes stores them: 8 bits in a byte each, 4 bits two
// in a byte, the lower index in the low nibble; every row starts at a byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tandem {

// Of a row of `count` codes of 4 or 8 bits.
inline std::int64_t packed_bytes(std::int64_t count, int bits) noexcept {
  return bits == 8 ? count : (count + 1) / 2;
}

// Packs a row that is given as one code per byte, of which 4-bit ones use the low nibble.
inline void pack_codes(std::span<const std::uint8_t> codes, int bits, std::byte* out) noexcept {
  if (bits == 8) {
    for (const std::uint8_t code : codes) *out++ = std::byte{code};
    return;
  }
  for (std::size_t i = 0; i + 1 < codes.size(); i += 2)
    *out++ = static_cast<std::byte>((codes[i] & 15) | (codes[i + 1] << 4));
  if (codes.size() % 2 != 0) *out = static_cast<std::byte>(codes.back() & 15);
}

// Code `i` of a row, without its sign.
inline std::uint8_t packed_code(const std::byte* row, int bits, std::int64_t i) noexcept {
  if (bits == 8) return static_cast<std::uint8_t>(row[i]);
  return static_cast<std::uint8_t>(static_cast<int>(row[i / 2]) >> (i % 2 * 4) & 15);
}

}  // namespace tandem
