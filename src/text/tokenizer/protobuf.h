// A reader for the wire format of Protocol Buffers, in which SentencePiece's models are stored.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tandem {

// Iterates over the fields of one message. Nothing is copied; every length is checked.
class ProtobufReader {
 public:
  // `place` names the message in errors ("FILE: pieces[3]"). Throws kFormat from next() and the
  // accessors.
  ProtobufReader(std::string_view message, std::string place)
      : message_(message), place_(std::move(place)) {}

  // False at the end.
  bool next();
  std::uint32_t field() const noexcept { return field_; }

  // The current field's value; throws kFormat if it is of another type.
  std::string_view bytes() const;
  std::uint64_t number() const;
  bool flag() const { return number() != 0; }
  float real() const;

 private:
  enum class Wire { kNumber = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
  std::uint64_t read_varint();
  std::string_view take(std::uint64_t size);
  void expect(Wire wire, const char* what) const;

  std::string_view message_;
  std::string place_;
  std::size_t at_ = 0;
  std::uint32_t field_ = 0;
  Wire wire_ = Wire::kNumber;
  std::uint64_t number_ = 0;
  std::string_view bytes_;
};

}  // namespace tandem
