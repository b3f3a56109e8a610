// Moves keys in the cache to other positions: a key is turned by the angles of its position, which
// leave it again by turning it back.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/thread_pool.h"
#include "execute/kv_pool.h"
#include "graph/graph.h"
#include "kernels/kernels.h"

namespace tandem {

class Uses;

class KeyTurner {
 public:
  // For caches of `dtype` that `graph`, a decoder, writes. Keys may come from a rotary embedding,
  // with a Hadamard transform of parts of heads behind it or without, or know nothing of their
  // position. Throws kUnsupported for keys that come from anything else, naming it, for an I8 cache
  // of a graph without scales, and for any other dtype than F16 and F32.
  KeyTurner(const Graph& graph, const Kernels& kernels, DType dtype);

  // Drops what the sequence's eviction() says, which is shorter than the sequence: the tokens
  // behind take their places, keys turned by the difference between the angles of the new position
  // and the old one, values as they are. In F16 and I8 each key is rounded once more. Throws, leaving the
  // sequence as it was, if the pool has no room for copies of blocks that it shares.
  void evict(KvSequence& sequence, ThreadPool& pool) const;

 private:
  // How the keys of a layer know their position.
  struct Layer {
    std::int64_t kv_heads = 0;
    std::int64_t head_dim = 0;
    // Index into angles_; none: they don't.
    std::optional<std::size_t> angles;
    // Of an I8 cache: [kv_heads * head_dim].
    std::vector<float> scales;
    // Blocks of the transforms behind the rotary embedding, the last one first.
    std::vector<std::int64_t> hadamards;
  };
  // The turns of one rotary embedding for the tokens of a block: [pairs][64] each.
  struct Turns {
    std::vector<float> cosines;
    std::vector<float> sines;
  };

  Layer find_layer(const Graph& graph, const Uses& uses, const Node& attention, DType dtype);
  // For tokens that move from position p + count to p, for p in `positions`, all in one block.
  Turns turns(const RotaryAnglesAttributes& angles, std::int64_t epoch, Range positions,
              std::int64_t count) const;
  void turn(const Layer& layer, const Turns& turns, std::int64_t tokens, float* keys) const;

  const Kernels& kernels_;
  std::vector<Layer> layers_;
  // Of the graph's rotary embeddings.
  std::vector<RotaryAnglesAttributes> angles_;
  // The nodes that they were found in.
  std::vector<NodeId> angle_nodes_;
};

}  // namespace tandem
