// SentencePiece's compiled table of replacements ("precompiled_charsmap"): which characters are
// written as which others.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

class CharacterMap {
 public:
  CharacterMap() = default;  // replaces nothing
  // The table's bytes: the size of a double array, the array, and the replacements, which end with
  // a zero byte each. `place` names it in errors. Throws kFormat.
  CharacterMap(std::string_view bytes, const std::string& place);

  bool empty() const noexcept { return units_.empty(); }

  struct Match {
    std::size_t length;  // of what is replaced
    std::string_view replacement;
  };
  // The longest, or the shortest, sequence at the start of `text` that has a replacement.
  std::optional<Match> longest(std::string_view text) const noexcept;
  std::optional<Match> shortest(std::string_view text) const noexcept;

 private:
  template <typename Visit>  // visit(length, offset of the replacement) returns whether to go on
  void prefixes(std::string_view text, Visit visit) const noexcept;
  std::optional<std::string_view> replacement_at(std::uint32_t offset) const noexcept;

  std::vector<std::uint32_t> units_;  // the double array, as the library Darts-clone lays it out
  std::string replacements_;
};

}  // namespace tandem
