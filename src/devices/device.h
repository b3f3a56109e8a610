// The interface of a device: it offers to run parts of a graph, compiles a segment into a program
// and runs it.
#pragma once

#include <algorithm>
#include <cstddef>
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
// Such as "prefill" or "decode".
std::string_view to_string(Phase phase) noexcept;

// The keys and values of a sequence as programs see them: blocks of 64 tokens, each with a part for
// every layer. The dtype determines the layout of a part (kernels/kernels.h); the scales of int8
// codes are those of the layer's attention.
struct KvView {
  // One pointer per 64 tokens.
  std::span<std::byte* const> blocks;
  // Bytes from one layer's part of a block to the next layer's.
  std::int64_t layer_bytes = 0;
  DType dtype = DType::kF16;
};

// The rows of one sequence in a batch, and where their keys and values are stored.
struct SequenceSlice {
  // Index in the batch.
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
  // Position of the first row: the number of tokens already in the cache.
  std::int64_t position = 0;
  // Has blocks for all `rows`.
  KvView kv;
  // Tokens that the sequence will hold once all pending tokens are read, in this run and later
  // ones: at least position + rows. Rotary embeddings may depend on it (graph/rotary.h); 0: no more
  // than these rows.
  std::int64_t total = 0;
  // A tree of drafts: for each row the earlier row of this slice that it continues, -1 for the tokens
  // in the cache. A row attends to its ancestors and stands behind them; rows on different branches
  // don't see each other. Empty: each row continues the one before it.
  std::span<const std::int32_t> parents = {};

  // Where a row of the slice stands.
  std::int64_t position_of(std::int64_t row) const noexcept {
    if (parents.empty()) return position + row;
    std::int64_t at = position;
    for (std::int32_t p = parents[static_cast<std::size_t>(row)]; p >= 0;
         p = parents[static_cast<std::size_t>(p)])
      ++at;
    return at;
  }
  std::int64_t length() const noexcept { return std::max(total, position + rows); }
};

// What a program is compiled for: the phase, and the number of tokens per run: the maximum or, for
// a device with fixed shapes, the exact number in every run, padded if there are fewer. Buffers of
// values with one row per token have this many rows.
struct PhaseSpec {
  Phase phase = Phase::kDecode;
  std::int64_t rows = 0;
  // Tokens in the context of an attention with fixed shapes: those in the cache and, in the last
  // columns, the `rows` new ones. 0: such a device leaves attention to others.
  std::int64_t context = 0;
};

// One run of a program. All memory belongs to the caller, so that a program can run several times
// concurrently, each with its own buffers and scratch.
struct RunContext {
  ThreadPool& pool;
  // Number of rows in this run, by row space.
  std::span<const std::int64_t> rows;
  // Cover the tokens, in order.
  std::span<const SequenceSlice> slices;
  // Buffers of the segment's inputs and outputs (devices/buffers.h), in the segment's order,
  // 64-byte aligned.
  std::span<std::byte* const> inputs;
  std::span<std::byte* const> outputs;
  // Scratch memory of the size that the program needs, 64-byte aligned.
  std::byte* scratch = nullptr;
};

class Program {
 public:
  struct Needs {
    // Scratch memory for each run.
    std::int64_t scratch_bytes = 0;
    // Packed weights read in one run, for bandwidth figures.
    std::int64_t weight_bytes = 0;
    // Tokens computed in every run; 0: as many as it is given.
    std::int64_t fixed_rows = 0;
  };

  virtual ~Program() = default;
  virtual const Needs& needs() const noexcept = 0;
  // Blocking and re-entrant: several threads may run one program concurrently.
  virtual void run(const RunContext& context) const = 0;
};

// Identifies the panels of a weight: what was packed, and how.
struct PanelKey {
  // Empty for unknown content, which is packed every time.
  std::string text;
  // Whether the key is valid in other processes too.
  bool persistent = false;
};

// Keeps weights in the kernels' layout, shared by all programs of a process and across restarts.
class PanelCache {
 public:
  virtual ~PanelCache() = default;
  // Returns the `bytes` stored under `key` or, if there are none, memory that `pack` has filled and
  // that is then stored. 64-byte aligned; the returned tensor (U8) keeps it alive.
  virtual Tensor get_or_pack(const PanelKey& key, std::int64_t bytes,
                             const std::function<void(std::byte*)>& pack) = 0;
};

struct CompileContext {
  // Packs weights; runs use a pool with as many threads.
  ThreadPool& pool;
  PanelCache& panels;
  PhaseSpec spec;
  // Buffer rows by row space: the maximum of any run. For tokens that is spec.rows.
  std::vector<std::int64_t> max_rows;
};

// The cost of running some nodes, for choosing between devices.
struct Cost {
  // Multiply-adds in one run of spec.rows tokens.
  double multiply_adds = 0;
  // Weight bytes read in one run.
  double bytes = 0;

  Cost& operator+=(const Cost& other) noexcept {
    multiply_adds += other.multiply_adds;
    bytes += other.bytes;
    return *this;
  }
};

// Part of a graph that a device would run as a unit.
struct Claim {
  // In graph order.
  std::vector<NodeId> nodes;
  // The reason for claiming each node, in the same order.
  std::vector<std::string> reasons;
  Cost cost;
};

struct Refusal {
  NodeId node = -1;
  std::string reason;
};

// Every node of the graph is either claimed or refused.
struct Offer {
  std::vector<Claim> claims;
  std::vector<Refusal> refusals;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual std::string_view name() const noexcept = 0;
  virtual Offer offer(const Graph& graph, const PhaseSpec& spec) const = 0;
  // Compiles a segment whose nodes were all claimed by this device. The segment need not outlive
  // the program.
  virtual std::unique_ptr<Program> compile(const Graph& segment,
                                           const CompileContext& context) const = 0;
};

}  // namespace tandem
