// What a device is: something that compiles a segment of a graph into a program and runs it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "graph/graph.h"

namespace tandem {

enum class Phase : std::uint8_t { kPrefill, kDecode };
std::string_view to_string(Phase phase) noexcept;  // "prefill", "decode"

// The rows of one sequence in a batch, and where their keys and values go.
struct SequenceSlice {
  std::int64_t first_row = 0;  // in the batch
  std::int64_t rows = 0;
  std::int64_t position = 0;  // of the first row: tokens already in the cache
  // One pointer per block of 64 tokens, for each layer: kv_blocks[layer][block]. Blocks for all
  // `rows` exist.
  std::span<const std::vector<std::byte*>> kv_blocks;
  DType kv_dtype = DType::kF16;  // of the blocks: F16 or F32
  // Tokens that the sequence will hold once all that is being read is in it, this run's and those
  // of later runs: at least position + rows. Rotary embeddings may depend on it (graph/rotary.h);
  // 0: no more than these rows.
  std::int64_t total = 0;

  std::int64_t length() const noexcept { return std::max(total, position + rows); }
};

// One pass over a batch of tokens. The runtime owns all memory; programs keep none between runs but
// scratch.
struct RunContext {
  ThreadPool& pool;
  std::span<const std::int32_t> ids;       // one per row
  std::span<const SequenceSlice> slices;   // cover the rows in order
  std::span<const std::int32_t> selected;  // rows whose logits are wanted
  std::span<float* const>
      values;  // one matrix per graph value, rows `width` floats apart (null for ids)

  std::int64_t rows() const noexcept { return static_cast<std::int64_t>(ids.size()); }
};

class Program {
 public:
  virtual ~Program() = default;
  virtual void run(const RunContext& context) = 0;
  // Bytes of packed weights that this program reads in one run, for bandwidth figures.
  virtual std::int64_t weight_bytes() const = 0;
};

// Where packed weights are kept between starts. A key names the content (weights, layout version,
// features).
class PackedCache {
 public:
  virtual ~PackedCache() = default;
  // The `bytes` stored under `key()`, or, when there are none, memory that `pack` has filled and
  // that is stored. 64-byte aligned; the returned tensor (U8) keeps it alive. A cache that stores
  // nothing need not call `key`.
  virtual Tensor get_or_pack(const std::function<std::string()>& key, std::int64_t bytes,
                             const std::function<void(std::byte*)>& pack) = 0;
};

// Packs anew every time and keeps nothing.
class NoPackedCache : public PackedCache {
 public:
  Tensor get_or_pack(const std::function<std::string()>& key, std::int64_t bytes,
                     const std::function<void(std::byte*)>& pack) override;
};

struct CompileContext {
  ThreadPool& pool;
  PackedCache& packed;
  std::int64_t max_rows = 0;  // of any later run
  std::int64_t max_selected = 0;
};

struct Support {
  bool yes = false;
  std::string reason;  // why, or why not: printed in the placement table
};

class Device {
 public:
  virtual ~Device() = default;
  virtual std::string_view name() const noexcept = 0;
  virtual Support supports(const Graph& graph, const Node& node, Phase phase) const = 0;
  // Compiles the nodes [begin, end), which this device supports, in their order.
  virtual std::unique_ptr<Program> compile(const Graph& graph, NodeId begin, NodeId end,
                                           const CompileContext& context) const = 0;
};

}  // namespace tandem
