// Scales of an int8 KV cache, and of an attention in integers on it: how far queries, keys and values
// reach in each channel, over a calibration text.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "graph/graph.h"
#include "quantize/block_runner.h"

namespace tandem {

// How far the inputs of an attention reach, by channel. Of two channels that RoPE turns by an angle
// both have the largest length of their vector, which no position exceeds.
struct AttentionRange {
  // [heads * head_dim].
  std::vector<float> q;
  // [kv_heads * head_dim] each.
  std::vector<float> k;
  std::vector<float> v;
};
// By the attention's name.
using AttentionRanges = std::map<std::string, AttentionRange>;

// Records ranges block by block, those of prefix tokens included, whose keys and values are in the
// cache, too.
class AttentionRecorder : public BlockVisitor {
 public:
  // Both must outlive this object.
  AttentionRecorder(const Graph& graph, ThreadPool& pool);

  std::vector<ValueId> wanted() const;
  AttentionRanges result;

  void begin(std::int32_t layer) override;
  void batch(const BlockRunner& runner, std::int64_t first, std::int64_t rows) override;
  void end(const BlockRunner& runner) override;
  NamedTensors learned() const override;
  void recall(std::int32_t layer, const NamedTensors& learned) override;

 private:
  // One input of the attention of the block that runs.
  struct Input {
    ValueId value = -1;
    // By channel, the one that RoPE turns it with, or itself.
    std::vector<std::int64_t> partner;
    // What it belongs to.
    std::vector<float>* range = nullptr;
  };
  void record(Input& input, const float* x, std::int64_t rows);
  const Node* attention_in(std::int32_t layer) const;

  const Graph& graph_;
  ThreadPool& pool_;
  std::vector<Input> inputs_;
  std::int32_t layer_ = -1;
};

// The graph with the scales of an int8 cache in each attention, and those of its int16 codes unless
// its cosines and sines reach 2. What calibration has not seen may reach a sixteenth further. Throws kInternal for an attention without ranges.
Graph with_kv_scales(const Graph& graph, const AttentionRanges& ranges);

}  // namespace tandem
