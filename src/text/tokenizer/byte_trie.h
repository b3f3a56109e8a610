// A trie of byte strings: finds which of them a text begins with.
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
  // Strings must not be empty; of duplicates the last one counts.
  void build(std::vector<std::pair<std::string, TokenId>> contents);

  bool empty() const noexcept { return nodes_.empty(); }
  bool may_start(char c) const noexcept { return roots_[static_cast<unsigned char>(c)] != 0; }

  // Calls visit(length, token) for every string that `text` begins with, shortest first.
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

  // Length and token of the longest string that `text` begins with; length 0 if there is none.
  std::pair<std::size_t, TokenId> longest(std::string_view text) const noexcept {
    std::pair<std::size_t, TokenId> best{0, -1};
    prefixes(text, [&](std::size_t length, TokenId token) { best = {length, token}; });
    return best;
  }

 private:
  struct Node {
    // Index into edges_, sorted by byte.
    std::uint32_t edges_begin = 0;
    std::uint32_t edges_end = 0;
    TokenId token = -1;
  };
  struct Edge {
    unsigned char byte;
    std::uint32_t node;
  };
  // 0, the root, is never a child, and means that there is none.
  std::uint32_t child(const Node& node, unsigned char byte) const noexcept;

  // The root's children, where every search begins.
  std::array<std::uint32_t, 256> roots_{};
  std::vector<Node> nodes_;
  std::vector<Edge> edges_;
};

}  // namespace tandem
