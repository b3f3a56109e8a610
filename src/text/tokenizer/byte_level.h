// The alphabet of byte-level BPE, introduced by GPT-2: each byte is represented by one printable
// character.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace tandem {

// Appends `bytes`, represented in the alphabet, to `out`.
void append_byte_level(std::string_view bytes, std::string& out);

// Appends the bytes represented by `token` to `out`; if one of its characters is not in the
// alphabet, appends its own UTF-8.
void append_byte_level_decoded(std::string_view token, std::string& out);

// GPT-2's expression for splitting text into words; used by the ByteLevel pre-tokenizer.
inline constexpr std::string_view kGpt2Expression =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace tandem
