// Runs a float graph, or a part of one, over windows of text on this machine's CPU, with a cache
// that rounds nothing.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "devices/cpu/cpu_device.h"
#include "devices/no_panel_cache.h"
#include "execute/executor.h"
#include "execute/kv_pool.h"
#include "graph/extract.h"
#include "graph/graph.h"

namespace tandem {

// Those of this machine, with the fastest float products: nothing that runs on them is compared with
// what another machine computes.
const Kernels& window_kernels();

class WindowExecutor {
 public:
  // Packs the graph's weights. `rows`: the most in a run; they are whole windows of `window`
  // tokens, each a sequence of its own. The graph has at most one layer with attention. Other row
  // spaces than tokens have as many rows.
  WindowExecutor(const Graph& graph, std::int64_t window, std::int64_t rows, ThreadPool& pool);
  WindowExecutor(const WindowExecutor&) = delete;
  WindowExecutor& operator=(const WindowExecutor&) = delete;

  // `inputs`: `rows` rows of each input of the graph, in its order.
  void run(std::span<const void* const> inputs, std::int64_t rows);
  // The same for tokens that from now on stand before every window, with their keys and values; once
  // at most. Throws kInvalidArgument for more than the rows of a run.
  void run_prefix(std::span<const void* const> inputs, std::int64_t rows);
  // An output of the last run, [rows, width].
  const float* output(std::size_t index) const { return executor_->output(arena_, index); }

 private:
  // Sequences with room for a window, behind `prefix`.
  void make_sequences(const KvSequence& prefix);

  std::int64_t window_;
  std::int64_t rows_;
  std::size_t row_spaces_;
  CpuDevice device_;
  NoPanelCache panels_;
  DeviceThreads threads_;
  std::unique_ptr<Executor> executor_;
  Arena arena_;
  // Null for a graph without attention.
  std::shared_ptr<KvPool> cache_;
  std::int64_t prefix_ = 0;
  std::vector<KvSequence> sequences_;
};

// What is computed of the tokens before every window, from one part of a graph to the next.
class PrefixRows {
 public:
  explicit PrefixRows(std::span<const std::int32_t> ids) : ids_(ids) {}

  // Runs the prefix through an executor of this part, from what earlier parts computed of it.
  // Nothing without a prefix, as keep().
  void run(const Extracted& part, WindowExecutor& executor) const;
  // Keeps what the executor computed for later parts.
  void keep(const Extracted& part, const WindowExecutor& executor);

  // Of float values, [prefix, width] each, by value of the whole graph.
  std::map<ValueId, std::vector<float>> rows;

 private:
  std::span<const std::int32_t> ids_;
};

}  // namespace tandem
