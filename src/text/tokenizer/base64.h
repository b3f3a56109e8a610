// Base64 (RFC 4648) as tokenizer files carry bytes in it.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tandem {

// The bytes that `text` spells, with or without padding; nothing if it is not base64.
std::optional<std::string> decode_base64(std::string_view text);

std::string encode_base64(std::string_view bytes);

}  // namespace tandem
