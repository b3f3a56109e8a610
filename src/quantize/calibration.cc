// Runs one block over all windows, then the next: only one block's weights are packed at a time,
// and the only data passed from block to block are the values that a later one reads.
#include "quantize/calibration.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <optional>

#include "base/cpu_features.h"
#include "base/error.h"
#include "devices/cpu/cpu_device.h"
#include "devices/no_panel_cache.h"
#include "execute/executor.h"
#include "execute/kv_pool.h"
#include "graph/extract.h"
#include "graph/uses.h"
#include "quantize/activation_recorder.h"
#include "quantize/weight_sink.h"

namespace tandem {
namespace {

// Statistics are those of the float model, so its cache is not rounded either.
constexpr DType kCacheType = DType::kF32;

// Rows that a program runs at a time: enough to amortise reading its weights, few enough that the
// widest values of a block stay small compared to its weights. Several shorter windows run
// together.
constexpr std::int64_t kBatchRows = 512;

void require_windows(const Graph& graph, const CalibrationWindows& windows) {
  const auto tokens = static_cast<std::int64_t>(windows.ids.size());
  if (windows.window < 1 || tokens < 1 || tokens % windows.window != 0)
    fail(ErrorCode::kInvalidArgument, "[calibrate] {} tokens, expected whole windows of {}", tokens,
         windows.window);
  std::int64_t vocabulary = 0;
  for (const Node& node : graph.nodes())
    if (node.op == Op::kEmbedding) vocabulary = node.as<EmbeddingAttributes>().table.dim(0);
  for (std::size_t i = 0; i < windows.ids.size(); ++i)
    if (windows.ids[i] < 0 || windows.ids[i] >= vocabulary)
      fail(ErrorCode::kInvalidArgument,
           "[calibrate] token {} has id {}, expected 0 to {}: was the text tokenized for another "
           "model?",
           i, windows.ids[i], vocabulary - 1);
}

// One decoder block, or what precedes the first, as a graph of its own.
struct Block {
  std::int32_t layer = -1;
  Extracted part;
  // The values of the whole graph that the block's Linears read, and those Linears.
  std::vector<ValueId> recorded;
  std::vector<std::vector<NodeId>> linears;
};

// The nodes of each layer in order; what follows the last one, the head, is left out.
std::vector<Block> cut_blocks(const Graph& graph) {
  const Uses uses(graph);
  std::vector<std::vector<NodeId>> nodes(static_cast<std::size_t>(graph.layers()) + 1);
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    // Nodes outside layers are part of the first block if they do not depend on anything a layer
    // writes.
    const bool is_head =
        node.layer < 0 && std::ranges::any_of(
                              node.inputs,
                              [&](ValueId input) {
                                const NodeId producer = uses.producer(input);
                                return producer >= 0 &&
                                       std::ranges::find(nodes[0], producer) == nodes[0].end();
                              });
    if (!is_head) nodes[static_cast<std::size_t>(std::int64_t{node.layer} + 1)].push_back(id);
  }
  std::vector<Block> blocks;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    Block block{.layer = static_cast<std::int32_t>(i) - 1};
    for (const NodeId id : nodes[i]) {
      const Node& node = graph.node(id);
      if (node.op != Op::kLinear || block.layer < 0) continue;
      const auto found = std::ranges::find(block.recorded, node.inputs[0]);
      const auto at = static_cast<std::size_t>(found - block.recorded.begin());
      if (found == block.recorded.end()) {
        block.recorded.push_back(node.inputs[0]);
        block.linears.emplace_back();
      }
      block.linears[at].push_back(id);
    }
    block.part = extract(graph, nodes[i], block.recorded);
    blocks.push_back(std::move(block));
  }
  return blocks;
}

class Calibrator {
 public:
  Calibrator(const Graph& graph, const CalibrationWindows& windows, ThreadPool& pool)
      : graph_(graph),
        windows_(windows),
        pool_(pool),
        tokens_(static_cast<std::int64_t>(windows.ids.size())),
        batch_rows_(std::min(
            tokens_, std::max<std::int64_t>(1, kBatchRows / windows.window) * windows.window)),
        blocks_(cut_blocks(graph)),
        last_reader_(graph.values().size(), -1),
        kept_(graph.values().size()),
        device_(select_kernels(detect_cpu_features())) {
    for (std::size_t b = 0; b < blocks_.size(); ++b)
      for (const ValueId input : blocks_[b].part.inputs)
        last_reader_[index(input)] = static_cast<int>(b);
    // A block's graph has a single layer: the cache has one, too.
    const auto attention = std::ranges::find(graph.nodes(), Op::kGroupQueryAttention, &Node::op);
    if (attention == graph.nodes().end()) return;
    const auto& a = attention->as<AttentionAttributes>();
    cache_ = std::make_shared<KvPool>(KvShape{1, a.kv_heads, a.head_dim, kCacheType});
    for (std::int64_t first = 0; first < batch_rows_; first += windows.window) {
      sequences_.emplace_back(cache_);
      sequences_.back().reserve(windows.window);
    }
  }

  std::map<std::string, InputStatistics> run(const std::function<void(int, int)>& progress) {
    std::map<std::string, InputStatistics> result;
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
      run_block(static_cast<int>(b), result);
      if (blocks_[b].layer >= 0 && progress) progress(blocks_[b].layer + 1, graph_.layers());
    }
    return result;
  }

 private:
  // The rows of a value that a later block reads, for all tokens.
  struct Kept {
    Tensor memory;
    std::byte* data = nullptr;
    std::int64_t row_bytes = 0;
  };

  static std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

  void run_block(int b, std::map<std::string, InputStatistics>& result) {
    Block& block = blocks_[index(b)];
    if (block.part.graph.nodes().empty()) return;
    NoPanelCache panels;
    const DeviceThreads devices[] = {{&device_, &pool_}};
    const std::vector<std::int64_t> no_rows(graph_.row_spaces().size() - 1, 0);
    const Executor executor(block.part.graph, {Phase::kPrefill, batch_rows_}, devices, panels,
                            no_rows);
    Arena arena = executor.make_arena();
    std::vector<ActivationRecorder> recorders;
    for (const ValueId value : block.recorded)
      recorders.emplace_back(graph_.value(value).width, pool_.threads());
    take_memory(b);
    for (std::int64_t first = 0; first < tokens_; first += batch_rows_)
      run_batch(block, executor, arena, first, recorders);
    for (std::size_t i = 0; i < recorders.size(); ++i) {
      const InputStatistics statistics = recorders[i].statistics();
      for (const NodeId linear : block.linears[i]) result[graph_.node(linear).name] = statistics;
    }
    release_weights(block.part.graph);
  }

  void run_batch(const Block& block, const Executor& executor, Arena& arena, std::int64_t first,
                 std::vector<ActivationRecorder>& recorders) {
    const std::int64_t rows = std::min(batch_rows_, tokens_ - first);
    std::vector<const void*> inputs;
    for (const ValueId input : block.part.inputs) inputs.push_back(rows_of(input, first));
    std::vector<std::int64_t> counts(graph_.row_spaces().size(), 0);
    counts[kTokens] = rows;
    executor.run({inputs, counts, slices_of(rows)}, arena);
    for (std::size_t i = 0; i < recorders.size(); ++i) {
      const BadActivation bad =
          recorders[i].record(recorded_rows(block, i, executor, arena, first), rows, pool_);
      if (bad.row >= 0) fail_activation(block, i, bad, first + bad.row);
    }
    for (std::size_t i = 0; i < block.part.outputs.size(); ++i) {
      const Kept& kept = kept_[index(block.part.outputs[i])];
      if (kept.data != nullptr)
        std::memcpy(kept.data + first * kept.row_bytes, executor.output(arena, i),
                    index(rows * kept.row_bytes));
    }
  }

  // Allocates the values that later blocks read. Reuses the memory of a value of the same size that
  // nobody reads after this block; its rows are overwritten batch by batch once they have been
  // read.
  void take_memory(int b) {
    const Block& block = blocks_[index(b)];
    for (const ValueId output : block.part.outputs) {
      if (last_reader_[index(output)] <= b) continue;
      const Value& value = graph_.value(output);
      const auto row_bytes = value.width * static_cast<std::int64_t>(size_of(value.dtype));
      Kept& kept = kept_[index(output)];
      for (const ValueId input : block.part.inputs) {
        if (last_reader_[index(input)] != b || kept_[index(input)].row_bytes != row_bytes) continue;
        kept = kept_[index(input)];
        // Two outputs must not reuse the same memory.
        last_reader_[index(input)] = -1;
        break;
      }
      if (kept.data != nullptr) continue;
      kept.memory = Tensor::allocate(value.dtype, {tokens_, value.width}, &kept.data);
      kept.row_bytes = row_bytes;
    }
  }

  const void* rows_of(ValueId value, std::int64_t first) const {
    const Kept& kept = kept_[index(value)];
    if (kept.data != nullptr) return kept.data + first * kept.row_bytes;
    // The graph's own input: the token ids.
    return windows_.ids.data() + first;
  }

  const float* recorded_rows(const Block& block, std::size_t i, const Executor& executor,
                             const Arena& arena, std::int64_t first) const {
    const auto output = std::ranges::find(block.part.outputs, block.recorded[i]);
    if (output == block.part.outputs.end())
      return static_cast<const float*>(rows_of(block.recorded[i], first));
    return executor.output(arena, static_cast<std::size_t>(output - block.part.outputs.begin()));
  }

  std::vector<SequenceSlice> slices_of(std::int64_t rows) {
    std::vector<SequenceSlice> slices;
    for (std::int64_t first = 0; first < rows; first += windows_.window) {
      SequenceSlice slice{first, windows_.window};
      if (cache_) {
        slice.kv = sequences_[index(first / windows_.window)].view();
        // Whatever its number, the block's layer is the only one in the cache.
        slice.kv.layer_bytes = 0;
      }
      slices.push_back(slice);
    }
    return slices;
  }

  [[noreturn]] void fail_activation(const Block& block, std::size_t i, const BadActivation& bad,
                                    std::int64_t token) const {
    fail(ErrorCode::kInvalidArgument,
         "[calibrate] {}: input {} is {} in channel {} for token {} of window {}: expected finite "
         "values",
         graph_.node(block.linears[i].front()).name, graph_.value(block.recorded[i]).name,
         bad.value, bad.channel, token % windows_.window, token / windows_.window);
  }

  const Graph& graph_;
  const CalibrationWindows& windows_;
  ThreadPool& pool_;
  std::int64_t tokens_;
  std::int64_t batch_rows_;
  std::vector<Block> blocks_;
  // By value of the graph: the last block that reads it, and its rows.
  std::vector<int> last_reader_;
  std::vector<Kept> kept_;
  std::shared_ptr<KvPool> cache_;
  std::vector<KvSequence> sequences_;
  CpuDevice device_;
};

}  // namespace

CalibrationWindows cut_windows(std::span<const std::int32_t> ids, std::int64_t window,
                               std::int64_t samples) {
  if (window < 1 || samples < 1)
    fail(ErrorCode::kInvalidArgument,
         "[calibrate] {} windows of {} tokens, expected at least one of each", samples, window);
  const auto tokens = static_cast<std::int64_t>(ids.size());
  const std::int64_t count = std::min(samples, tokens / window);
  if (count < 1)
    fail(ErrorCode::kInvalidArgument,
         "[calibrate] the text has {} tokens, expected at least one window of {}", tokens, window);
  const auto used = ids.first(static_cast<std::size_t>(count * window));
  return {{used.begin(), used.end()}, window};
}

std::map<std::string, InputStatistics> calibrate(const Graph& graph,
                                                 const CalibrationWindows& windows,
                                                 ThreadPool& pool,
                                                 const std::function<void(int, int)>& progress) {
  require_windows(graph, windows);
  return Calibrator(graph, windows, pool).run(progress);
}

}  // namespace tandem
