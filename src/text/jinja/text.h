// A string that remembers which of its bytes came from the chat rather than from the template, so
// that a user's "<|im_end|>" can be told from the template's own when the text is tokenized.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat_template.h"

namespace tandem::jinja {

class Text {
 public:
  Text() = default;
  explicit Text(std::string bytes, bool from_chat = false);

  const std::string& bytes() const noexcept { return bytes_; }
  std::size_t size() const noexcept { return bytes_.size(); }
  bool empty() const noexcept { return bytes_.empty(); }
  bool any_from_chat() const noexcept { return !from_chat_.empty(); }
  const std::vector<TextSpan>& from_chat() const noexcept { return from_chat_; }

  // By byte offsets.
  Text slice(std::size_t begin, std::size_t end) const;
  void append(std::string_view plain) { bytes_.append(plain); }
  void append(const Text& other) { append(other, 0, other.size()); }
  void append(const Text& other, std::size_t begin, std::size_t end);
  // Bytes computed from `source`, such as its upper case: marked as from the chat if any part of it
  // was.
  static Text derived(const Text& source, std::string bytes);

 private:
  void mark(std::size_t begin, std::size_t end);

  std::string bytes_;
  // Ascending, disjoint, not empty.
  std::vector<TextSpan> from_chat_;
};

}  // namespace tandem::jinja
