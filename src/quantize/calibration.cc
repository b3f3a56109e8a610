// Runs one block over all windows, then the next: only one block's weights are packed at a time,
// and all that passes from block to block are the hidden states.
#include "quantize/calibration.h"

#include <algorithm>
#include <cstddef>
#include <memory>

#include "base/cpu_features.h"
#include "base/error.h"
#include "devices/cpu/cpu_device.h"
#include "quantize/activation_recorder.h"
#include "quantize/calibration_plan.h"

namespace tandem {
namespace {

// Statistics are those of the float model: its cache is not rounded either.
constexpr DType kCacheType = DType::kF32;

// Rows that a program is given at once: enough to read its weights seldom, few enough that the
// widest values of a block stay small beside its weights. Shorter windows run several together.
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

// The keys and values of one layer, for each window of a batch.
class LayerCache {
 public:
  LayerCache(const Graph& graph, const CalibrationBlock& block, std::int64_t windows,
             std::int64_t window) {
    std::int64_t block_bytes = 0;
    for (const CalibrationSegment& segment : block.segments)
      for (NodeId id = segment.begin; id < segment.end; ++id)
        if (graph.node(id).op == Op::kGroupQueryAttention) {
          const auto& attention = graph.node(id).as<AttentionAttributes>();
          block_bytes = kv_block_bytes(attention.kv_heads, attention.head_dim, kCacheType);
        }
    const std::int64_t blocks = (window + kKvBlockTokens - 1) / kKvBlockTokens;
    tables_.resize(static_cast<std::size_t>(windows));
    for (auto& table : tables_) table.resize(static_cast<std::size_t>(graph.layers()));
    if (block_bytes == 0) return;
    std::byte* data = nullptr;
    memory_ = Tensor::allocate(DType::kU8, {windows * blocks * block_bytes}, &data);
    // Attention reads whole blocks and masks what no token has written: zeros keep that free of
    // NaN.
    std::fill_n(data, windows * blocks * block_bytes, std::byte{0});
    for (auto& table : tables_)
      for (std::int64_t i = 0; i < blocks; ++i, data += block_bytes)
        table[static_cast<std::size_t>(block.layer)].push_back(data);
  }

  std::span<const std::vector<std::byte*>> of_window(std::int64_t index) const {
    return tables_[static_cast<std::size_t>(index)];
  }

 private:
  Tensor memory_;
  std::vector<std::vector<std::vector<std::byte*>>> tables_;  // [window][layer][block]
};

class Calibrator {
 public:
  Calibrator(const Graph& graph, const CalibrationWindows& windows, ThreadPool& pool)
      : graph_(graph),
        windows_(windows),
        pool_(pool),
        tokens_(static_cast<std::int64_t>(windows.ids.size())),
        batch_rows_(std::min(
            tokens_, std::max<std::int64_t>(1, kBatchRows / windows.window) * windows.window)),
        blocks_(plan_calibration(graph)),
        values_(graph, blocks_, tokens_, batch_rows_),
        device_(select_kernels(detect_cpu_features())) {}

  std::map<std::string, InputStatistics> run(const std::function<void(int, int)>& progress) {
    std::map<std::string, InputStatistics> result;
    for (const CalibrationBlock& block : blocks_) {
      run_block(block, result);
      if (block.layer >= 0 && progress) progress(block.layer + 1, graph_.layers());
    }
    return result;
  }

 private:
  void run_block(const CalibrationBlock& block, std::map<std::string, InputStatistics>& result) {
    NoPackedCache packed;
    const CompileContext compile{pool_, packed, batch_rows_, 0};
    const LayerCache cache(graph_, block, batch_rows_ / windows_.window, windows_.window);
    std::vector<std::unique_ptr<Program>> programs;
    std::vector<ActivationRecorder> recorders;
    for (const CalibrationSegment& segment : block.segments) {
      programs.push_back(device_.compile(graph_, segment.begin, segment.end, compile));
      const std::int64_t channels = segment.recorded < 0 ? 0 : graph_.value(segment.recorded).width;
      recorders.emplace_back(channels, pool_.threads());
    }
    for (std::int64_t first = 0; first < tokens_; first += batch_rows_) {
      const std::int64_t rows = std::min(batch_rows_, tokens_ - first);
      const std::vector<float*> values = values_.pointers(first);
      const std::vector<SequenceSlice> slices = slices_of(cache, rows);
      const RunContext context{
          pool_,
          std::span(windows_.ids)
              .subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows)),
          slices,
          {},
          values};
      for (std::size_t i = 0; i < programs.size(); ++i) {
        const CalibrationSegment& segment = block.segments[i];
        if (segment.recorded >= 0) {
          const float* x = values[static_cast<std::size_t>(segment.recorded)];
          const BadActivation bad = recorders[i].record(x, rows, pool_);
          if (bad.row >= 0) fail_activation(segment, bad, first + bad.row);
        }
        programs[i]->run(context);
      }
    }
    for (std::size_t i = 0; i < recorders.size(); ++i) {
      if (block.segments[i].linears.empty()) continue;
      const InputStatistics statistics = recorders[i].statistics();
      for (const NodeId linear : block.segments[i].linears)
        result[graph_.node(linear).name] = statistics;
    }
  }

  std::vector<SequenceSlice> slices_of(const LayerCache& cache, std::int64_t rows) const {
    std::vector<SequenceSlice> slices;
    for (std::int64_t first = 0; first < rows; first += windows_.window)
      slices.push_back(
          {first, windows_.window, 0, cache.of_window(first / windows_.window), kCacheType});
    return slices;
  }

  [[noreturn]] void fail_activation(const CalibrationSegment& segment, const BadActivation& bad,
                                    std::int64_t token) const {
    fail(ErrorCode::kInvalidArgument,
         "[calibrate] {}: input {} is {} in channel {} for token {} of window {}: expected finite "
         "values",
         graph_.node(segment.linears.front()).name, graph_.value(segment.recorded).name, bad.value,
         bad.channel, token % windows_.window, token / windows_.window);
  }

  const Graph& graph_;
  const CalibrationWindows& windows_;
  ThreadPool& pool_;
  std::int64_t tokens_;
  std::int64_t batch_rows_;
  std::vector<CalibrationBlock> blocks_;
  CalibrationValues values_;
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
