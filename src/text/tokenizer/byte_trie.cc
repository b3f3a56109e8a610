// Builds the trie level by level, so that a node's edges are adjacent.
#include "text/tokenizer/byte_trie.h"

#include <algorithm>
#include <deque>

#include "base/merge_sort.h"

namespace tandem {

void ByteTrie::build(std::vector<std::pair<std::string, TokenId>> contents) {
  if (contents.empty()) return;
  merge_sort(contents, [](const auto& a, const auto& b) { return a.first < b.first; });
  // A node represents the strings [begin, end) that share their first `depth` bytes.
  struct Group {
    std::size_t begin, end, depth;
  };
  std::deque<Group> groups{{0, contents.size(), 0}};
  nodes_.resize(1);
  for (std::size_t node = 0; !groups.empty(); ++node) {
    auto [begin, end, depth] = groups.front();
    groups.pop_front();
    for (; begin < end && contents[begin].first.size() == depth; ++begin) {
      nodes_[node].token = contents[begin].second;
    }
    nodes_[node].edges_begin = static_cast<std::uint32_t>(edges_.size());
    while (begin < end) {
      const char byte = contents[begin].first[depth];
      std::size_t next = begin + 1;
      while (next < end && contents[next].first[depth] == byte) ++next;
      edges_.push_back(
          {static_cast<unsigned char>(byte), static_cast<std::uint32_t>(nodes_.size())});
      nodes_.emplace_back();
      groups.push_back({begin, next, depth + 1});
      begin = next;
    }
    nodes_[node].edges_end = static_cast<std::uint32_t>(edges_.size());
  }
  for (std::uint32_t i = 0; i < nodes_[0].edges_end; ++i) roots_[edges_[i].byte] = edges_[i].node;
}

std::uint32_t ByteTrie::child(const Node& node, unsigned char byte) const noexcept {
  // Most nodes have one or two children; only those near the root have many.
  constexpr std::uint32_t kFew = 8;
  if (node.edges_end - node.edges_begin <= kFew) {
    for (std::uint32_t i = node.edges_begin; i < node.edges_end; ++i)
      if (edges_[i].byte == byte) return edges_[i].node;
    return 0;
  }
  const Edge* end = edges_.data() + node.edges_end;
  const Edge* edge = std::lower_bound(edges_.data() + node.edges_begin, end, byte,
                                      [](const Edge& e, unsigned char b) { return e.byte < b; });
  return edge == end || edge->byte != byte ? 0 : edge->node;
}

}  // namespace tandem
