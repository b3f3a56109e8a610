// The alphabet of byte-level BPE: each byte written as one printable character, as GPT-2 introduced
// it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace tandem {

// Writes `bytes` in the alphabet, at the end of `out`.
void append_byte_level(std::string_view bytes, std::string& out);

// The bytes that `token` spells, at the end of `out`; if one of its characters is not in the
// alphabet, its own UTF-8.
void append_byte_level_decoded(std::string_view token, std::string& out);

// How GPT-2 cuts text in words; used by the ByteLevel pre-tokenizer.
inline constexpr std::string_view kGpt2Expression =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace tandem
