// Largest values by channel, of pairs that rotate by pair.
#include "quantize/attention_scales.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "graph/rewriter.h"
#include "graph/uses.h"

namespace tandem {
namespace {

constexpr float kHeadroom = 17.0F / 16;
constexpr float kLargestCode = 127;
// Of a channel that is always zero.
constexpr float kSmallestRange = 1e-6F;

constexpr std::array<const char*, 3> kParts = {".q_range", ".k_range", ".v_range"};
std::vector<float> AttentionRange::* const kMembers[] = {&AttentionRange::q, &AttentionRange::k,
                                                         &AttentionRange::v};

std::vector<std::int64_t> partners(const Graph& graph, const Uses& uses, ValueId value,
                                   std::int64_t head_dim) {
  std::vector<std::int64_t> partner(static_cast<std::size_t>(graph.value(value).width));
  std::iota(partner.begin(), partner.end(), 0);
  const NodeId producer = uses.producer(value);
  if (producer < 0 || graph.node(producer).op != Op::kRotaryEmbedding) return partner;
  const std::int64_t half = graph.value(graph.node(producer).inputs[1]).width / 2;
  for (std::size_t c = 0; c < partner.size(); ++c) {
    const std::int64_t in_head = static_cast<std::int64_t>(c) % head_dim;
    if (in_head < 2 * half) partner[c] += in_head < half ? half : -half;
  }
  return partner;
}

// What multiplies the cosines and sines of a rotated value: of int16 codes in units of 2^-14, below 2.
float rotary_factor(const Graph& graph, const Uses& uses, ValueId value) {
  const NodeId rotary = uses.producer(value);
  if (rotary < 0 || graph.node(rotary).op != Op::kRotaryEmbedding) return 1;
  const NodeId angles = uses.producer(graph.node(rotary).inputs[1]);
  if (angles < 0 || graph.node(angles).op != Op::kRotaryAngles) return 1;
  return graph.node(angles).as<RotaryAnglesAttributes>().attention_factor;
}

// Empty where cosines don't fit.
Tensor int16_scales_of(const Graph& graph, const Uses& uses, const Node& node,
                       const AttentionRange& range, std::span<const float> k_scales) {
  constexpr float kMostFactor = 1.99F;
  constexpr float kLargestInt16 = 32767;
  const float q_factor = rotary_factor(graph, uses, node.inputs[0]);
  const float k_factor = rotary_factor(graph, uses, node.inputs[1]);
  for (const float factor : {q_factor, k_factor})
    if (!(factor > 0) || factor > kMostFactor) return {};
  const auto& attention = node.as<AttentionAttributes>();
  const std::int64_t dim = attention.head_dim, group = attention.heads / attention.kv_heads;
  float product = 0;
  for (std::int64_t c = 0; c < attention.heads * dim; ++c)
    product =
        std::max(product, range.q[static_cast<std::size_t>(c)] *
                              k_scales[static_cast<std::size_t>(c / dim / group * dim + c % dim)]);
  const auto scale = [&](float largest) {
    return std::max(largest * kHeadroom, kSmallestRange) / kLargestInt16;
  };
  const float scales[] = {scale(std::ranges::max(range.q) / q_factor),
                          scale(std::ranges::max(range.k) / k_factor),
                          // No smallest range: k_scales are small already.
                          std::max(product * kHeadroom, 1e-20F) / kLargestInt16};
  return Tensor::from_floats(scales, {3});
}

Tensor scales_of(const std::vector<float>& range) {
  std::vector<float> scales = range;
  for (float& scale : scales) scale = std::max(scale * kHeadroom, kSmallestRange) / kLargestCode;
  return Tensor::from_floats(scales, {std::ssize(scales)});
}

}  // namespace

AttentionRecorder::AttentionRecorder(const Graph& graph, ThreadPool& pool)
    : graph_(graph), pool_(pool) {}

std::vector<ValueId> AttentionRecorder::wanted() const {
  std::vector<ValueId> values;
  for (const Node& node : graph_.nodes())
    if (node.op == Op::kGroupQueryAttention)
      values.insert(values.end(), node.inputs.begin(), node.inputs.end());
  return values;
}

const Node* AttentionRecorder::attention_in(std::int32_t layer) const {
  const auto found = std::ranges::find_if(graph_.nodes(), [&](const Node& node) {
    return node.op == Op::kGroupQueryAttention && node.layer == layer;
  });
  return found == graph_.nodes().end() ? nullptr : &*found;
}

void AttentionRecorder::begin(std::int32_t layer) {
  const Node* node = attention_in(layer);
  if (node == nullptr) return;
  const Uses uses(graph_);
  AttentionRange& range = result[node->name];
  for (std::size_t i = 0; i < node->inputs.size(); ++i) {
    const ValueId value = node->inputs[i];
    std::vector<float>& largest = range.*kMembers[i];
    largest.assign(static_cast<std::size_t>(graph_.value(value).width), 0.0F);
    inputs_.push_back(
        {value, partners(graph_, uses, value, node->as<AttentionAttributes>().head_dim), &largest});
  }
}

void AttentionRecorder::record(Input& input, const float* x, std::int64_t rows) {
  const auto width = static_cast<std::int64_t>(input.partner.size());
  pool_.run([&](int thread) {
    const Range channels = partition(width, thread, pool_.threads());
    for (std::int64_t row = 0; row < rows; ++row) {
      const float* values = x + row * width;
      for (std::int64_t c = channels.begin; c < channels.end; ++c) {
        const std::int64_t other = input.partner[static_cast<std::size_t>(c)];
        const float size = other == c
                               ? std::fabs(values[c])
                               : std::sqrt(values[c] * values[c] + values[other] * values[other]);
        float& largest = (*input.range)[static_cast<std::size_t>(c)];
        largest = size > largest ? size : largest;
      }
    }
  });
}

void AttentionRecorder::batch(const BlockRunner& runner, std::int64_t first, std::int64_t rows) {
  for (Input& input : inputs_) record(input, runner.rows_of(input.value, first), rows);
}

void AttentionRecorder::end(const BlockRunner& runner) {
  for (Input& input : inputs_) {
    const std::span<const float> prefix = runner.prefix_rows(input.value);
    record(input, prefix.data(), std::ssize(prefix) / std::ssize(input.partner));
  }
  inputs_.clear();
  layer_ = runner.layer();
}

NamedTensors AttentionRecorder::learned() const {
  NamedTensors tensors;
  const Node* node = attention_in(layer_);
  if (node == nullptr) return tensors;
  const AttentionRange& range = result.at(node->name);
  for (std::size_t i = 0; i < kParts.size(); ++i) {
    const std::vector<float>& values = range.*kMembers[i];
    tensors[node->name + kParts[i]] = Tensor::from_floats(values, {std::ssize(values)});
  }
  return tensors;
}

void AttentionRecorder::recall(std::int32_t layer, const NamedTensors& learned) {
  const Node* node = attention_in(layer);
  if (node == nullptr) return;
  for (std::size_t i = 0; i < kParts.size(); ++i)
    result[node->name].*kMembers[i] = learned.at(node->name + kParts[i]).to_floats();
}

Graph with_kv_scales(const Graph& graph, const AttentionRanges& ranges) {
  Rewriter rewriter(graph);
  const Uses uses(graph);
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    if (node.op != Op::kGroupQueryAttention) {
      rewriter.copy(id);
      continue;
    }
    const auto found = ranges.find(node.name);
    if (found == ranges.end())
      fail(ErrorCode::kInternal, "[quantize] {}: was not calibrated", node.name);
    auto attention = node.as<AttentionAttributes>();
    attention.k_scales = scales_of(found->second.k);
    attention.v_scales = scales_of(found->second.v);
    attention.int16_scales =
        int16_scales_of(graph, uses, node, found->second, attention.k_scales.as<float>());
    rewriter.copy(id, std::move(attention));
  }
  return std::move(rewriter).finish();
}

}  // namespace tandem
