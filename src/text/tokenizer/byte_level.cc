// Printable Latin-1 bytes represent themselves; the other 68 are U+0100 onwards, in order.
#include "text/tokenizer/byte_level.h"

#include "text/tokenizer/unicode.h"

namespace tandem {
namespace {

constexpr bool prints(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr int kUnprintable = 68;
constexpr int kFirstSubstitute = 0x100;

struct Alphabet {
  std::array<std::array<char, 2>, 256>
      // UTF-8 of the character of each byte; [1] is 0 for ASCII.
      text{};
  std::array<std::int16_t, kFirstSubstitute + kUnprintable>
      // Indexed by character; -1: not in the alphabet.
      byte{};
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  for (auto& byte : alphabet.byte) byte = -1;
  int substitute = kFirstSubstitute;
  for (int byte = 0; byte < 256; ++byte) {
    const int code = prints(byte) ? byte : substitute++;
    alphabet.byte[static_cast<std::size_t>(code)] = static_cast<std::int16_t>(byte);
    auto& text = alphabet.text[static_cast<std::size_t>(byte)];
    if (code < 0x80) {
      text = {static_cast<char>(code), 0};
    } else {
      text = {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
    }
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();

}  // namespace

void append_byte_level(std::string_view bytes, std::string& out) {
  for (const char c : bytes) {
    const auto& text = kAlphabet.text[static_cast<unsigned char>(c)];
    out.push_back(text[0]);
    if (text[1] != 0) out.push_back(text[1]);
  }
}

void append_byte_level_decoded(std::string_view token, std::string& out) {
  const std::size_t start = out.size();
  for (std::size_t at = 0; at < token.size();) {
    const char32_t code = next_character(token, at);
    if (code >= kAlphabet.byte.size() || kAlphabet.byte[code] < 0) {
      out.resize(start);
      out.append(token);
      return;
    }
    out.push_back(static_cast<char>(kAlphabet.byte[code]));
  }
}

}  // namespace tandem
