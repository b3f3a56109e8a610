// Reading the fixtures that fixtures/make_tokenizer.py made with the Hugging Face library.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "support.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem::testing {

inline Json text_fixture(const std::string& name) {
  return read_json_file(fixture("text/fixtures/" + name));
}

inline std::vector<TokenId> ids_of(const Json& json) { return json.get<std::vector<TokenId>>(); }

// Without waiting for the disk, which write_text_file() does: some tests write thousands of files.
inline void write_quickly(const fs::path& file, std::string_view text) {
  std::ofstream(file, std::ios::binary) << text;
}

// Writes the tokenizer and opens it.
inline Tokenizer open_tokenizer(const Json& tokenizer, const fs::path& file) {
  write_quickly(file, tokenizer.dump());
  return Tokenizer::open(file);
}

// FNV-1a, 64 bits, of little-endian int32, as make_tokenizer.py computes it.
std::string hash_of(const std::vector<TokenId>& ids);

// Its lower half, as make_tokenizer_formats.py stores it.
inline std::string hash32_of(const std::vector<TokenId>& ids) { return hash_of(ids).substr(8); }

// Token by token; every piece must be whole characters.
std::string decode_streaming(const Tokenizer& tokenizer, const std::vector<TokenId>& ids,
                             bool skip);

}  // namespace tandem::testing
