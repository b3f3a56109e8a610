// One executor with the memory of its runs.
#include "quantize/window_executor.h"

#include <algorithm>
#include <optional>

#include "base/cpu_features.h"
#include "base/error.h"

namespace tandem {

const Kernels& window_kernels() {
  static const Kernels fast = [] {
    Kernels table = select_kernels(detect_cpu_features());
    table.linear_float = table.linear_float_fast;
    return table;
  }();
  return fast;
}

WindowExecutor::WindowExecutor(const Graph& graph, std::int64_t window, std::int64_t rows,
                               ThreadPool& pool)
    : window_(window),
      rows_(rows),
      row_spaces_(graph.row_spaces().size()),
      device_(window_kernels()),
      threads_{&device_, &pool} {
  const std::vector<std::int64_t> others(row_spaces_ - 1, rows);
  executor_ = std::make_unique<Executor>(graph, PhaseSpec{Phase::kPrefill, rows},
                                         std::span(&threads_, 1), panels_, others);
  arena_ = executor_->make_arena();
  const auto attention = std::ranges::find(graph.nodes(), Op::kGroupQueryAttention, &Node::op);
  if (attention == graph.nodes().end()) return;
  const auto& a = attention->as<AttentionAttributes>();
  cache_ = std::make_shared<KvPool>(KvShape{1, a.kv_heads, a.head_dim, DType::kF32});
  make_sequences(KvSequence(cache_));
}

void WindowExecutor::make_sequences(const KvSequence& prefix) {
  sequences_.clear();
  for (std::int64_t first = 0; first < rows_; first += window_) {
    sequences_.push_back(prefix.fork(0));
    sequences_.back().reserve(window_);
  }
}

void WindowExecutor::run_prefix(std::span<const void* const> inputs, std::int64_t rows) {
  if (rows > rows_)
    fail(ErrorCode::kInvalidArgument, "[calibrate] a prefix of {} tokens: expected at most {}",
         rows, rows_);
  SequenceSlice slice{0, rows};
  std::optional<KvSequence> prefix;
  if (cache_ != nullptr) {
    prefix.emplace(cache_);
    prefix->reserve(rows);
    slice.kv = prefix->view();
    slice.kv.layer_bytes = 0;
  }
  const std::vector<std::int64_t> counts(row_spaces_, rows);
  executor_->run({inputs, counts, std::span(&slice, 1)}, arena_);
  prefix_ = rows;
  if (!prefix) return;
  prefix->advance(std::vector<std::int32_t>(static_cast<std::size_t>(rows)));
  prefix->make_prefix();
  make_sequences(*prefix);
}

void WindowExecutor::run(std::span<const void* const> inputs, std::int64_t rows) {
  std::vector<SequenceSlice> slices;
  for (std::int64_t first = 0; first < rows; first += window_) {
    SequenceSlice slice{first, std::min(window_, rows - first), prefix_};
    if (!sequences_.empty()) {
      slice.kv = sequences_[static_cast<std::size_t>(first / window_)].view();
      // Whatever its number, the graph's layer is the only one in the cache.
      slice.kv.layer_bytes = 0;
    }
    slices.push_back(slice);
  }
  const std::vector<std::int64_t> counts(row_spaces_, rows);
  executor_->run({inputs, counts, slices}, arena_);
}

void PrefixRows::run(const Extracted& part, WindowExecutor& executor) const {
  if (ids_.empty()) return;
  std::vector<const void*> inputs;
  for (const ValueId input : part.inputs) {
    // What no part computed are the token ids.
    const auto kept = rows.find(input);
    inputs.push_back(kept == rows.end() ? static_cast<const void*>(ids_.data())
                                        : kept->second.data());
  }
  executor.run_prefix(inputs, std::ssize(ids_));
}

void PrefixRows::keep(const Extracted& part, const WindowExecutor& executor) {
  if (ids_.empty()) return;
  for (std::size_t i = 0; i < part.outputs.size(); ++i) {
    const std::int64_t width = part.graph.value(part.graph.outputs()[i]).width;
    const float* values = executor.output(i);
    rows[part.outputs[i]].assign(values, values + std::ssize(ids_) * width);
  }
}

}  // namespace tandem
