// Base64 (RFC 4648), in which tokenizer files store bytes.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tandem {

// Decodes `text`, with or without padding; nullopt if it is not base64.
std::optional<std::string> decode_base64(std::string_view text);

std::string encode_base64(std::string_view bytes);

}  // namespace tandem
