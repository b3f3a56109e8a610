// A field is a tag (number and wire type) and a value whose size depends on the wire type.
#include "text/tokenizer/protobuf.h"

#include <bit>

#include "base/error.h"

namespace tandem {

bool ProtobufReader::next() {
  if (at_ == message_.size()) return false;
  const std::uint64_t tag = read_varint();
  field_ = static_cast<std::uint32_t>(tag >> 3);
  if (field_ == 0 || tag >> 32 != 0) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected a field at byte {}, got tag {}", place_, at_,
         tag);
  }
  wire_ = static_cast<Wire>(tag & 7);
  switch (wire_) {
    case Wire::kNumber:
      number_ = read_varint();
      return true;
    case Wire::kBytes:
      bytes_ = take(read_varint());
      return true;
    case Wire::kFixed64:
      bytes_ = take(8);
      return true;
    case Wire::kFixed32:
      bytes_ = take(4);
      return true;
  }
  fail(ErrorCode::kFormat, "[tokenizer] {}: field {} has wire type {}, expected 0, 1, 2 or 5",
       place_, field_, tag & 7);
}

std::uint64_t ProtobufReader::read_varint() {
  std::uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    const auto byte = static_cast<unsigned char>(take(1)[0]);
    value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
    if ((byte & 0x80) == 0) return value;
  }
  fail(ErrorCode::kFormat, "[tokenizer] {}: the number before byte {} has more than 64 bits",
       place_, at_);
}

std::string_view ProtobufReader::take(std::uint64_t size) {
  if (size > message_.size() - at_) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected {} bytes at byte {}, the message ends at {}",
         place_, size, at_, message_.size());
  }
  const std::string_view part = message_.substr(at_, static_cast<std::size_t>(size));
  at_ += static_cast<std::size_t>(size);
  return part;
}

void ProtobufReader::expect(Wire wire, const char* what) const {
  if (wire_ == wire) return;
  fail(ErrorCode::kFormat, "[tokenizer] {}: field {}: expected {}, got wire type {}", place_,
       field_, what, static_cast<int>(wire_));
}

std::string_view ProtobufReader::bytes() const {
  expect(Wire::kBytes, "bytes");
  return bytes_;
}

std::uint64_t ProtobufReader::number() const {
  expect(Wire::kNumber, "a number");
  return number_;
}

float ProtobufReader::real() const {
  expect(Wire::kFixed32, "a float");
  std::uint32_t bits = 0;
  for (std::size_t i = 4; i-- > 0;) bits = bits << 8 | static_cast<unsigned char>(bytes_[i]);
  return std::bit_cast<float>(bits);
}

}  // namespace tandem
