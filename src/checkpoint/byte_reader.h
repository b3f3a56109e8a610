// A bounds-checked cursor over the bytes of an untrusted file; numbers are little-endian.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace tandem {

static_assert(std::endian::native == std::endian::little, "files are read and written in place");

class ByteReader {
 public:
  // `place` starts every message: "[gguf] models/x.gguf".
  ByteReader(std::span<const std::byte> bytes, std::string place)
      : bytes_(bytes), place_(std::move(place)) {}

  std::uint64_t position() const noexcept { return position_; }
  std::uint64_t remaining() const noexcept { return bytes_.size() - position_; }
  const std::string& place() const noexcept { return place_; }

  void seek(std::uint64_t position, std::string_view what) {
    if (position > bytes_.size())
      fail(ErrorCode::kFormat, "{}: {}: byte {} is beyond the end at {}", place_, what, position,
           bytes_.size());
    position_ = static_cast<std::size_t>(position);
  }

  // The next `count` bytes; throws kFormat naming `what` if there are fewer.
  std::span<const std::byte> take(std::uint64_t count, std::string_view what) {
    if (count > remaining())
      fail(ErrorCode::kFormat, "{}: {}: expected {} bytes at byte {}, there are {}", place_, what,
           count, position_, remaining());
    const auto taken = bytes_.subspan(position_, static_cast<std::size_t>(count));
    position_ += taken.size();
    return taken;
  }

  std::string_view text(std::uint64_t count, std::string_view what) {
    const auto taken = take(count, what);
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
  }

  template <typename T>
  T number(std::string_view what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

 private:
  std::span<const std::byte> bytes_;
  std::size_t position_ = 0;
  std::string place_;
};

}  // namespace tandem
