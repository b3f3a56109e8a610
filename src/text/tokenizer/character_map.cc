// Walks a double array of Darts-clone: a unit's offset, combined with the next byte, is the index
// of the next unit, whose label is that byte. Every index is checked.
#include "text/tokenizer/character_map.h"

#include "base/error.h"
#include "text/tokenizer/unicode.h"

namespace tandem {
namespace {

// Limits for damaged tables: no sequence in use has more than 30 bytes, no replacement more than
// 40.
constexpr std::size_t kMaxMatchBytes = 256;
constexpr std::size_t kMaxReplacementBytes = 1024;

// Darts-clone's unit: bits 0-7 label, 8 has a value, 9 wide offset, 10-30 offset; a value unit has
// bit 31 set and the value in the lower bits.
constexpr std::uint32_t kValueBit = 1u << 31;
std::uint32_t label_of(std::uint32_t unit) { return unit & (kValueBit | 0xFF); }
bool has_value(std::uint32_t unit) { return (unit >> 8 & 1) != 0; }
std::uint32_t value_of(std::uint32_t unit) { return unit & ~kValueBit; }
std::uint32_t offset_of(std::uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }

std::uint32_t read_u32(std::string_view bytes, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = 4; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

}  // namespace

CharacterMap::CharacterMap(std::string_view bytes, const std::string& place) {
  if (bytes.empty()) return;
  const std::uint32_t size = bytes.size() < 4 ? 0 : read_u32(bytes, 0);
  if (size == 0 || size % 4 != 0 || size > bytes.size() - 4) {
    fail(ErrorCode::kFormat,
         "[tokenizer] {}: the table of replacements has {} bytes and says that its array takes {}",
         place, bytes.size(), size);
  }
  units_.reserve(size / 4);
  for (std::size_t at = 4; at < 4 + std::size_t{size}; at += 4) {
    units_.push_back(read_u32(bytes, at));
  }
  replacements_ = bytes.substr(4 + std::size_t{size});
  if (!is_valid_utf8(replacements_)) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected replacements in UTF-8", place);
  }
}

template <typename Visit>
void CharacterMap::prefixes(std::string_view text, Visit visit) const noexcept {
  if (units_.empty()) return;
  std::size_t at = offset_of(units_[0]);
  text = text.substr(0, kMaxMatchBytes);
  for (std::size_t i = 0; i < text.size() && text[i] != 0; ++i) {
    const std::uint32_t byte = static_cast<unsigned char>(text[i]);
    at ^= byte;
    if (at >= units_.size() || label_of(units_[at]) != byte) return;
    const std::uint32_t unit = units_[at];
    at ^= offset_of(unit);
    if (at >= units_.size()) return;
    if (has_value(unit) && !visit(i + 1, value_of(units_[at]))) return;
  }
}

std::optional<std::string_view> CharacterMap::replacement_at(std::uint32_t offset) const noexcept {
  if (offset >= replacements_.size()) return std::nullopt;
  // An offset inside a character would not give valid UTF-8.
  if ((static_cast<unsigned char>(replacements_[offset]) & 0xC0) == 0x80) return std::nullopt;
  const auto rest = std::string_view(replacements_).substr(offset, kMaxReplacementBytes);
  const std::size_t end = rest.find('\0');
  // The last replacement may lack its zero byte.
  if (end == std::string_view::npos && rest.size() == kMaxReplacementBytes) return std::nullopt;
  return rest.substr(0, end);
}

std::optional<CharacterMap::Match> CharacterMap::longest(std::string_view text) const noexcept {
  std::optional<Match> best;
  prefixes(text, [&](std::size_t length, std::uint32_t offset) {
    if (const auto replacement = replacement_at(offset)) best = Match{length, *replacement};
    return true;
  });
  return best;
}

std::optional<CharacterMap::Match> CharacterMap::shortest(std::string_view text) const noexcept {
  std::optional<Match> first;
  prefixes(text, [&](std::size_t length, std::uint32_t offset) {
    if (const auto replacement = replacement_at(offset)) first = Match{length, *replacement};
    return !first.has_value();
  });
  return first;
}

}  // namespace tandem
