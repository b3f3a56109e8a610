// One executor with the memory of its runs.
#include "quantize/window_executor.h"

#include <algorithm>

#include "base/cpu_features.h"

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
  const auto cache = std::make_shared<KvPool>(KvShape{1, a.kv_heads, a.head_dim, DType::kF32});
  for (std::int64_t first = 0; first < rows; first += window) {
    sequences_.emplace_back(cache);
    sequences_.back().reserve(window);
  }
}

void WindowExecutor::run(std::span<const void* const> inputs, std::int64_t rows) {
  std::vector<SequenceSlice> slices;
  for (std::int64_t first = 0; first < rows; first += window_) {
    SequenceSlice slice{first, std::min(window_, rows - first)};
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

}  // namespace tandem
