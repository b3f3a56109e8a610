// Many byte strings at once: which of them begins at a given place of a text.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/tokenizer/tokenizer.h"

namespace tandem {

class ByteTrie {
 public:
  // Contents must not be empty strings; of equal ones the last counts.
  void build(std::vector<std::pair<std::string, TokenId>> contents);

  bool empty() const noexcept { return nodes_.empty(); }
  bool may_start(char c) const noexcept { return roots_[static_cast<unsigned char>(c)] != 0; }

  // Calls visit(length, token) for every content that `text` begins with, shortest first.
  template <typename Visit>
  void prefixes(std::string_view text, Visit visit) const {
    if (text.empty() || !may_start(text[0])) return;
    std::uint32_t node = roots_[static_cast<unsigned char>(text[0])];
    for (std::size_t i = 1;; ++i) {
      if (nodes_[node].token >= 0) visit(i, nodes_[node].token);
      if (i == text.size()) return;
      node = child(nodes_[node], static_cast<unsigned char>(text[i]));
      if (node == 0) return;
    }
  }

  // Length and token of the longest content that `text` begins with; length 0 if there is none.
  std::pair<std::size_t, TokenId> longest(std::string_view text) const noexcept {
    std::pair<std::size_t, TokenId> best{0, -1};
    prefixes(text, [&](std::size_t length, TokenId token) { best = {length, token}; });
    return best;
  }

 private:
  struct Node {
    std::uint32_t edges_begin = 0;  // in edges_, sorted by byte
    std::uint32_t edges_end = 0;
    TokenId token = -1;
  };
  struct Edge {
    unsigned char byte;
    std::uint32_t node;
  };
  // 0, the root, is no node's child.
  std::uint32_t child(const Node& node, unsigned char byte) const noexcept;

  std::array<std::uint32_t, 256> roots_{};  // the root's children, where every search begins
  std::vector<Node> nodes_;
  std::vector<Edge> edges_;
};

}  // namespace tandem
