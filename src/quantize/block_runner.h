// Runs a float graph over windows of text, one decoder block after the other, and shows what is
// computed to whoever wants to learn from it. In memory are one block's packed weights, the values
// of one batch, and what later blocks read of all tokens (the hidden states, overwritten by each
// block).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "graph/extract.h"
#include "graph/graph.h"
#include "quantize/journal.h"
#include "quantize/window_executor.h"

namespace tandem {

struct CalibrationWindows {
  // All windows, concatenated.
  std::vector<std::int32_t> ids;
  // Tokens per window; ids.size() is a multiple of it.
  std::int64_t window = 0;
  // Tokens that stand before each window. They are no part of it: only their keys and values are
  // seen.
  std::vector<std::int32_t> prefix = {};

  std::int64_t tokens() const { return static_cast<std::int64_t>(ids.size()); }
};

// By window, whether it is one of those that together have at most `tokens` (0: all windows; at
// least one), spread evenly.
std::vector<bool> spread_windows(const CalibrationWindows& windows, std::int64_t tokens);

// A part of a decoder as a graph of its own: what precedes the first decoder block (layer -1), one
// of those, or the head that follows them.
struct Block {
  std::int32_t layer = -1;
  Extracted part;
};
// In their order; a part without nodes stays. `wanted`: values that are outputs of their block
// besides those that are read outside.
std::vector<Block> cut_blocks(const Graph& graph, const std::vector<ValueId>& wanted);

// Rows that a program runs at a time: whole windows, enough to amortise reading its weights, few
// enough that the widest values of a block stay small compared to its weights.
std::int64_t batch_rows(const CalibrationWindows& windows);

class BlockRunner;

class BlockVisitor {
 public:
  virtual ~BlockVisitor() = default;
  // Before a decoder block runs.
  virtual void begin(std::int32_t /*layer*/) {}
  // A batch of whole windows went through the block: [first, first + rows) of all tokens.
  virtual void batch(const BlockRunner& runner, std::int64_t first, std::int64_t rows) = 0;
  // All windows did; values that later blocks read can be had for all tokens.
  virtual void end(const BlockRunner& /*runner*/) {}

  // What was learned of the block that ended, and taking it up again instead of running the block.
  virtual NamedTensors learned() const { return {}; }
  virtual void recall(std::int32_t /*layer*/, const NamedTensors& /*learned*/) {}

  // Whether each block runs a second time after end(), with the weights of revised(), and later
  // blocks go on from what it computes then. The values that it reads are kept meanwhile.
  virtual bool revises() const { return false; }
  // The block's graph with other weights.
  virtual Graph revised(const Graph& block) const { return block; }
};

class BlockRunner {
 public:
  // `wanted`: the values that a visitor asks for. The graph, the windows and the pool must outlive
  // this object. Throws kInvalidArgument for windows that do not fit the graph.
  BlockRunner(const Graph& graph, const CalibrationWindows& windows, std::vector<ValueId> wanted,
              ThreadPool& pool);

  // `progress(done, total)` is called after each decoder block. With a journal, blocks that are
  // finished there are not run again, and those that are run go there.
  void run(BlockVisitor& visitor, const std::function<void(int, int)>& progress,
           BlockJournal* journal = nullptr);

  const Graph& graph() const noexcept { return graph_; }
  const CalibrationWindows& windows() const noexcept { return windows_; }
  ThreadPool& pool() const noexcept { return pool_; }
  // The decoder block that runs.
  std::int32_t layer() const noexcept { return layer_; }
  // Rows from `first` on, [rows, width]: during batch(), of that batch's rows, of a wanted value
  // that the block computes; at any time, of a value that earlier blocks computed for it or that it
  // computes for later ones. Null for a value that is none of these.
  const float* rows_of(ValueId value, std::int64_t first) const;
  // The same of all tokens of the prefix, [prefix, width], of a value that has been computed; empty
  // without a prefix.
  std::span<const float> prefix_rows(ValueId value) const;

 private:
  // The rows of a value that a later block reads, for all tokens.
  struct Kept {
    Tensor memory;
    std::byte* data = nullptr;
    std::int64_t row_bytes = 0;
  };

  void require_windows() const;
  // Returns the last layer that is finished, with the values that the next one begins with.
  std::int32_t take_up(BlockVisitor& visitor, const BlockJournal& journal);
  void take_up_prefix(ValueId value, const NamedTensors& values, const BlockJournal& journal);
  NamedTensors kept_values() const;
  void run_block(int b, BlockVisitor& visitor);
  // Runs a graph with the inputs and outputs of a block on all windows; the visitor may be null.
  void run_windows(const Graph& graph, const Extracted& part, BlockVisitor* visitor);
  void take_memory(int b, bool keep_inputs);
  const void* input_rows(ValueId value, std::int64_t first) const;

  const Graph& graph_;
  const CalibrationWindows& windows_;
  ThreadPool& pool_;
  std::int64_t batch_rows_;
  // Without the head.
  std::vector<Block> blocks_;
  // By value of the graph: the last block that reads it, and its rows.
  std::vector<int> last_reader_;
  std::vector<Kept> kept_;
  PrefixRows prefix_;
  std::int32_t layer_ = -1;
  // Of the batch that went through the block: its first row, and each output by value.
  std::int64_t batch_first_ = 0;
  std::vector<const float*> batch_outputs_;
};

}  // namespace tandem
