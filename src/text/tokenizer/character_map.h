// SentencePiece's compiled replacement table ("precompiled_charsmap"): which character sequences
// are replaced by which others.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

class CharacterMap {
 public:
  // An empty map, which replaces nothing.
  CharacterMap() = default;
  // The table's bytes: the size of a double array, the array, and the replacements, each terminated
  // by a zero byte. `place` names the table in errors. Throws kFormat.
  CharacterMap(std::string_view bytes, const std::string& place);

  bool empty() const noexcept { return units_.empty(); }

  struct Match {
    // Length of the sequence to replace.
    std::size_t length;
    std::string_view replacement;
  };
  // The longest, or the shortest, sequence at the start of `text` that has a replacement.
  std::optional<Match> longest(std::string_view text) const noexcept;
  std::optional<Match> shortest(std::string_view text) const noexcept;

 private:
  // visit(length, offset of the replacement) returns whether to continue.
  template <typename Visit>
  void prefixes(std::string_view text, Visit visit) const noexcept;
  std::optional<std::string_view> replacement_at(std::uint32_t offset) const noexcept;

  // The double array, in the layout of the library Darts-clone.
  std::vector<std::uint32_t> units_;
  std::string replacements_;
};

}  // namespace tandem
