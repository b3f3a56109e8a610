// Finds how keys know their position, and moves keys and values down in the cache.
#include "execute/key_turner.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "graph/rotary.h"
#include "graph/uses.h"
#include "tensor/half.h"

namespace tandem {
namespace {

constexpr std::int64_t kSlots = kKvBlockTokens;

std::size_t index(std::int64_t i) noexcept { return static_cast<std::size_t>(i); }

// Elements of a cache as floats, and back. These two are all that know how a type is stored; of int8
// codes they are given the scale.
void load(const std::byte* from, DType dtype, std::int64_t count, float scale, float* to) {
  if (dtype == DType::kF32) {
    std::memcpy(to, from, index(count) * sizeof(float));
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    if (dtype == DType::kI8) {
      to[i] = static_cast<float>(static_cast<std::int8_t>(from[i])) * scale;
    } else {
      std::uint16_t half;
      std::memcpy(&half, from + 2 * i, sizeof half);
      to[i] = f16_to_float(half);
    }
  }
}

void store(const float* from, DType dtype, std::int64_t count, float scale, std::byte* to) {
  if (dtype != DType::kI8) {
    encode_floats(std::span(from, index(count)), dtype, to);
    return;
  }
  constexpr float kHighest = 127;
  for (std::int64_t i = 0; i < count; ++i) {
    const float code = std::clamp(std::nearbyint(from[i] / scale), -kHighest, kHighest);
    to[i] = static_cast<std::byte>(static_cast<std::int8_t>(code));
  }
}

// One head of one layer, in every block of a sequence.
struct Head {
  const KvView& view;
  // Of the key's channels, [head_dim]; of codes only.
  const float* scales;
  std::int64_t kv_heads, head_dim, layer, head;

  std::int64_t element() const noexcept { return static_cast<std::int64_t>(size_of(view.dtype)); }
  std::int64_t bytes() const noexcept { return head_dim * kSlots * element(); }
  float scale(std::int64_t d) const noexcept { return scales == nullptr ? 1 : scales[d]; }
  // Element `d` of the key at a position; those of the tokens behind it in the block follow.
  std::byte* key(std::int64_t position, std::int64_t d) const noexcept {
    return block(position) + (d * kSlots + position % kSlots) * element();
  }
  // The value at a position; those of the tokens behind it in the block follow.
  std::byte* value(std::int64_t position) const noexcept {
    return block(position) + kv_heads * bytes() + position % kSlots * head_dim * element();
  }

 private:
  std::byte* block(std::int64_t position) const noexcept {
    return view.blocks[index(position / kSlots)] + layer * view.layer_bytes + head * bytes();
  }
};

std::int64_t left_in_block(std::int64_t position) noexcept { return kSlots - position % kSlots; }

// Reads the keys at these positions, at most 64 of them: [head_dim][64].
void load_keys(const Head& head, Range positions, float* keys) {
  for (std::int64_t at = positions.begin; at < positions.end;) {
    const std::int64_t count = std::min(positions.end - at, left_in_block(at));
    for (std::int64_t d = 0; d < head.head_dim; ++d)
      load(head.key(at, d), head.view.dtype, count, head.scale(d),
           keys + d * kSlots + at - positions.begin);
    at += count;
  }
}

// Writes them to positions of one block.
void store_keys(const Head& head, Range positions, const float* keys) {
  for (std::int64_t d = 0; d < head.head_dim; ++d)
    store(keys + d * kSlots, head.view.dtype, positions.size(), head.scale(d),
          head.key(positions.begin, d));
}

void move_values(const Head& head, Range positions, std::int64_t count) {
  for (std::int64_t at = positions.begin; at < positions.end;) {
    const std::int64_t rows =
        std::min({positions.end - at, left_in_block(at), left_in_block(at + count)});
    std::memmove(head.value(at), head.value(at + count),
                 index(rows * head.head_dim * head.element()));
    at += rows;
  }
}

// The rotary embedding, if there is one, that `id` is computed from in the same layer's attention:
// what other tokens' attention gave knows no position of this token.
NodeId find_rotary(const Graph& graph, const Uses& uses, NodeId id, std::vector<bool>& seen) {
  if (id < 0 || seen[index(id)]) return -1;
  seen[index(id)] = true;
  const Node& node = graph.node(id);
  if (node.op == Op::kRotaryEmbedding) return id;
  if (node.op == Op::kGroupQueryAttention) return -1;
  for (const ValueId input : node.inputs)
    if (const NodeId found = find_rotary(graph, uses, uses.producer(input), seen); found >= 0)
      return found;
  return -1;
}

}  // namespace

KeyTurner::KeyTurner(const Graph& graph, const Kernels& kernels, DType dtype) : kernels_(kernels) {
  if (dtype != DType::kF16 && dtype != DType::kF32 && dtype != DType::kI8)
    fail(ErrorCode::kUnsupported,
         "[eviction] keys in {} cannot be turned: expected a cache in F16, F32 or I8",
         to_string(dtype));
  const Uses uses(graph);
  layers_.resize(index(graph.layers()));
  for (const Node& node : graph.nodes())
    if (node.op == Op::kGroupQueryAttention)
      layers_[index(node.layer)] = find_layer(graph, uses, node, dtype);
}

KeyTurner::Layer KeyTurner::find_layer(const Graph& graph, const Uses& uses, const Node& attention,
                                       DType dtype) {
  const auto& attributes = attention.as<AttentionAttributes>();
  Layer layer{.kv_heads = attributes.kv_heads, .head_dim = attributes.head_dim};
  if (dtype == DType::kI8 && !attributes.has_kv_scales())
    fail(ErrorCode::kUnsupported, "[eviction] {}: has no scales for keys in I8", attention.name);
  if (dtype == DType::kI8) layer.scales = attributes.k_scales.to_floats();
  const NodeId last = uses.producer(attention.inputs[1]);
  NodeId id = last;
  while (id >= 0 && graph.node(id).op == Op::kHadamard &&
         layer.head_dim % graph.node(id).as<HadamardAttributes>().block == 0) {
    layer.hadamards.push_back(graph.node(id).as<HadamardAttributes>().block);
    id = uses.producer(graph.node(id).inputs[0]);
  }
  std::vector<bool> seen(graph.nodes().size());
  const NodeId rotary = find_rotary(graph, uses, last, seen);
  if (rotary < 0) return layer;
  const NodeId angles = uses.producer(graph.node(rotary).inputs[1]);
  if (rotary != id || angles < 0 || graph.node(angles).op != Op::kRotaryAngles)
    fail(ErrorCode::kUnsupported,
         "[eviction] {}: its keys come from {} {}, so they cannot be turned to other positions: "
         "expected a rotary embedding, or a Hadamard transform of parts of heads behind one",
         attention.name, to_string(graph.node(id < 0 ? last : id).op),
         graph.node(id < 0 ? last : id).name);
  const auto known = std::ranges::find(angle_nodes_, angles);
  layer.angles = static_cast<std::size_t>(known - angle_nodes_.begin());
  if (known == angle_nodes_.end()) {
    angle_nodes_.push_back(angles);
    angles_.push_back(graph.node(angles).as<RotaryAnglesAttributes>());
  }
  return layer;
}

// Both angles are float32 products, as the model computes them (write_angles()): so a key gets the
// very angle that it would have been given at the new position, however far out that is.
KeyTurner::Turns KeyTurner::turns(const RotaryAnglesAttributes& angles, std::int64_t epoch,
                                  Range positions, std::int64_t count) const {
  std::vector<float> frequencies(angles.inverse_frequencies.size());
  write_frequencies(angles, epoch, frequencies);
  Turns turns;
  turns.cosines.resize(frequencies.size() * kSlots);
  turns.sines.resize(frequencies.size() * kSlots);
  for (std::size_t i = 0; i < frequencies.size(); ++i)
    for (std::int64_t t = 0; t < positions.size(); ++t) {
      const std::int64_t position = positions.begin + t;
      const float to = static_cast<float>(position) * frequencies[i];
      const float from = static_cast<float>(position + count) * frequencies[i];
      const double angle = static_cast<double>(to) - from;
      turns.cosines[i * kSlots + index(t)] = static_cast<float>(std::cos(angle));
      turns.sines[i * kSlots + index(t)] = static_cast<float>(std::sin(angle));
    }
  return turns;
}

// keys: [head_dim][64] of one head.
void KeyTurner::turn(const Layer& layer, const Turns& turns, std::int64_t tokens,
                     float* keys) const {
  // Each transform is its own inverse.
  const auto transform = [&](std::int64_t block) {
    std::vector<float> part(index(block));
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int64_t first = 0; first < layer.head_dim; first += block) {
        float* at = keys + first * kSlots + t;
        for (std::int64_t d = 0; d < block; ++d) part[index(d)] = at[d * kSlots];
        kernels_.hadamard(part.data(), block);
        for (std::int64_t d = 0; d < block; ++d) at[d * kSlots] = part[index(d)];
      }
  };
  for (const std::int64_t block : layer.hadamards) transform(block);
  const std::size_t pairs = turns.cosines.size() / kSlots;
  for (std::size_t i = 0; i < pairs; ++i) {
    float* x = keys + i * kSlots;
    float* y = x + pairs * kSlots;
    const float* cosines = turns.cosines.data() + i * kSlots;
    const float* sines = turns.sines.data() + i * kSlots;
    for (std::int64_t t = 0; t < tokens; ++t) {
      const float old_x = x[t], old_y = y[t];
      x[t] = old_x * cosines[t] - old_y * sines[t];
      y[t] = old_y * cosines[t] + old_x * sines[t];
    }
  }
  std::for_each(layer.hadamards.rbegin(), layer.hadamards.rend(), transform);
}

// In order of position, a block at a time: what is read stands behind all that was written.
void KeyTurner::evict(KvSequence& sequence, ThreadPool& pool) const {
  const Eviction eviction = sequence.eviction().value_or(Eviction{});
  const std::int64_t count = eviction.count;
  const std::int64_t first = sequence.position() - sequence.length() + eviction.sinks;
  const std::int64_t end = sequence.position() - count;
  sequence.own_from(first);
  const KvView view = sequence.view();
  std::vector<std::pair<std::int64_t, std::int64_t>> heads;
  for (std::size_t layer = 0; layer < layers_.size(); ++layer)
    for (std::int64_t head = 0; head < layers_[layer].kv_heads; ++head)
      heads.emplace_back(static_cast<std::int64_t>(layer), head);
  std::vector<Turns> block_turns(angles_.size());
  for (Range block{first, 0}; block.begin < end; block.begin = block.end) {
    block.end = std::min(end, block.begin + left_in_block(block.begin));
    for (std::size_t i = 0; i < angles_.size(); ++i)
      block_turns[i] = turns(angles_[i], sequence.rotary_epoch(), block, count);
    pool.parallel_for(static_cast<std::int64_t>(heads.size()), 1, [&](Range range) {
      std::vector<float> keys;
      for (std::int64_t h = range.begin; h < range.end; ++h) {
        const Layer& layer = layers_[index(heads[index(h)].first)];
        const std::int64_t number = heads[index(h)].second;
        const float* scales =
            layer.scales.empty() ? nullptr : layer.scales.data() + number * layer.head_dim;
        const Head head{view,  scales, layer.kv_heads, layer.head_dim, heads[index(h)].first,
                        number};
        keys.resize(index(layer.head_dim * kSlots));
        load_keys(head, {block.begin + count, block.end + count}, keys.data());
        if (layer.angles) turn(layer, block_turns[*layer.angles], block.size(), keys.data());
        store_keys(head, block, keys.data());
        move_values(head, block, count);
      }
    });
  }
  sequence.drop(first, count);
}

}  // namespace tandem
