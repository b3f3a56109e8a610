// Builds the bytes of a file's header number by number, little-endian.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace tandem {

class ByteWriter {
 public:
  template <typename T>
  void number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void text(std::string_view text) { bytes_ += text; }
  // Padded with zeros to `width` bytes.
  void padded_text(std::string_view text, std::size_t width) {
    bytes_ += text;
    bytes_.append(width - text.size(), '\0');
  }

  std::size_t size() const noexcept { return bytes_.size(); }
  std::string_view view() const noexcept { return bytes_; }
  std::span<const std::byte> bytes() const noexcept { return std::as_bytes(std::span(bytes_)); }

 private:
  std::string bytes_;
};

}  // namespace tandem
