// One executor per block; what passes from block to block is kept for all tokens.
#include "quantize/block_runner.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "base/error.h"
#include "graph/uses.h"
#include "quantize/weight_sink.h"
#include "quantize/window_executor.h"

namespace tandem {
namespace {

// Of the prefix's rows of a value, in a journal.
std::string prefix_key(ValueId value) { return fmt::format("prefix.{}", value); }

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

}  // namespace

std::vector<bool> spread_windows(const CalibrationWindows& windows, std::int64_t tokens) {
  const std::int64_t total = windows.tokens() / windows.window;
  const std::int64_t count =
      tokens == 0 ? total : std::clamp<std::int64_t>(tokens / windows.window, 1, total);
  std::vector<bool> chosen(index(total));
  for (std::int64_t i = 0; i < count; ++i) chosen[index(i * total / count)] = true;
  return chosen;
}

std::vector<Block> cut_blocks(const Graph& graph, const std::vector<ValueId>& wanted) {
  const Uses uses(graph);
  // What precedes the blocks, each of them, the head.
  std::vector<std::vector<NodeId>> nodes(index(graph.layers()) + 2);
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    // Nodes outside layers are part of the head if they depend on anything a layer writes.
    const bool is_head =
        node.layer < 0 && std::ranges::any_of(
                              node.inputs,
                              [&](ValueId input) {
                                const NodeId producer = uses.producer(input);
                                return producer >= 0 &&
                                       std::ranges::find(nodes[0], producer) == nodes[0].end();
                              });
    (is_head ? nodes.back() : nodes[index(std::int64_t{node.layer} + 1)]).push_back(id);
  }
  std::vector<Block> blocks;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    std::vector<ValueId> here;
    for (const ValueId value : wanted)
      if (std::ranges::find(nodes[i], uses.producer(value)) != nodes[i].end())
        here.push_back(value);
    const std::int32_t layer = i + 1 < nodes.size() ? static_cast<std::int32_t>(i) - 1 : -1;
    blocks.push_back({layer, extract(graph, nodes[i], here)});
  }
  return blocks;
}

std::int64_t batch_rows(const CalibrationWindows& windows) {
  constexpr std::int64_t kRows = 512;
  const std::int64_t window = std::max<std::int64_t>(1, windows.window);
  return std::min(windows.tokens(), std::max<std::int64_t>(1, kRows / window) * windows.window);
}

BlockRunner::BlockRunner(const Graph& graph, const CalibrationWindows& windows,
                         std::vector<ValueId> wanted, ThreadPool& pool)
    : graph_(graph),
      windows_(windows),
      pool_(pool),
      batch_rows_(batch_rows(windows)),
      last_reader_(graph.values().size(), -1),
      kept_(graph.values().size()),
      prefix_(windows.prefix),
      batch_outputs_(graph.values().size()) {
  require_windows();
  blocks_ = cut_blocks(graph, wanted);
  blocks_.pop_back();
  for (std::size_t b = 0; b < blocks_.size(); ++b)
    for (const ValueId input : blocks_[b].part.inputs)
      last_reader_[index(input)] = static_cast<int>(b);
}

void BlockRunner::require_windows() const {
  const std::int64_t tokens = windows_.tokens();
  if (windows_.window < 1 || tokens < 1 || tokens % windows_.window != 0)
    fail(ErrorCode::kInvalidArgument, "[calibrate] {} tokens, expected whole windows of {}", tokens,
         windows_.window);
  std::int64_t vocabulary = 0;
  for (const Node& node : graph_.nodes())
    if (node.op == Op::kEmbedding) vocabulary = node.as<EmbeddingAttributes>().table.dim(0);
  for (const auto* ids : {&windows_.ids, &windows_.prefix})
    for (std::size_t i = 0; i < ids->size(); ++i)
      if ((*ids)[i] < 0 || (*ids)[i] >= vocabulary)
        fail(ErrorCode::kInvalidArgument,
             "[calibrate] {} {} has id {}, expected 0 to {}: was the text tokenized for another "
             "model?",
             ids == &windows_.ids ? "token" : "token of the prefix", i, (*ids)[i], vocabulary - 1);
}

void BlockRunner::run(BlockVisitor& visitor, const std::function<void(int, int)>& progress,
                      BlockJournal* journal) {
  const std::int32_t finished = journal == nullptr ? -1 : take_up(visitor, *journal);
  for (std::size_t b = 0; b < blocks_.size(); ++b) {
    layer_ = blocks_[b].layer;
    const bool is_decoder = layer_ >= 0;
    if (finished < 0 || layer_ > finished) {
      run_block(static_cast<int>(b), visitor);
      if (is_decoder && journal != nullptr)
        journal->save(layer_, visitor.learned(), layer_ + 1 == graph_.layers(),
                      [&] { return kept_values(); });
    }
    if (is_decoder && progress) progress(layer_ + 1, graph_.layers());
  }
}

std::int32_t BlockRunner::take_up(BlockVisitor& visitor, const BlockJournal& journal) {
  const std::int32_t finished = journal.finished();
  if (finished < 0) return finished;
  if (finished >= graph_.layers()) journal.fail_damaged();
  try {
    for (std::int32_t layer = 0; layer <= finished; ++layer)
      visitor.recall(layer, journal.learned(layer));
  } catch (const std::out_of_range&) {
    journal.fail_damaged();
  }
  const NamedTensors values = journal.values();
  for (std::size_t value = 0; value < kept_.size(); ++value) {
    take_up_prefix(static_cast<ValueId>(value), values, journal);
    const auto found = values.find(std::to_string(value));
    if (found == values.end()) continue;
    const Tensor& rows = found->second;
    const Value& expected = graph_.value(static_cast<ValueId>(value));
    if (rows.dtype() != expected.dtype || rows.shape() != Shape{windows_.tokens(), expected.width})
      journal.fail_damaged();
    Kept& kept = kept_[value];
    kept.memory = Tensor::allocate(rows.dtype(), rows.shape(), &kept.data);
    std::ranges::copy(rows.bytes(), kept.data);
    kept.row_bytes = static_cast<std::int64_t>(rows.bytes().size()) / windows_.tokens();
  }
  return finished;
}

void BlockRunner::take_up_prefix(ValueId value, const NamedTensors& values,
                                 const BlockJournal& journal) {
  const auto found = values.find(prefix_key(value));
  if (found == values.end()) return;
  const Tensor& rows = found->second;
  if (rows.dtype() != DType::kF32 ||
      rows.elements() != std::ssize(windows_.prefix) * graph_.value(value).width)
    journal.fail_damaged();
  prefix_.rows[value] = rows.to_floats();
}

NamedTensors BlockRunner::kept_values() const {
  NamedTensors values;
  for (std::size_t value = 0; value < kept_.size(); ++value)
    if (kept_[value].data != nullptr) values[std::to_string(value)] = kept_[value].memory;
  for (const auto& [value, rows] : prefix_.rows)
    values[prefix_key(value)] = Tensor::from_floats(rows, {std::ssize(rows)});
  return values;
}

void BlockRunner::run_block(int b, BlockVisitor& visitor) {
  const Extracted& part = blocks_[index(b)].part;
  if (part.graph.nodes().empty()) return;
  const bool is_decoder = layer_ >= 0;
  const bool is_revised = is_decoder && visitor.revises();
  if (is_decoder) visitor.begin(layer_);
  take_memory(b, is_revised);
  run_windows(part.graph, part, is_decoder ? &visitor : nullptr);
  // Those that were overwritten, or that no later block reads.
  const auto forget = [&](bool overwritten) {
    for (const ValueId input : part.inputs)
      if (last_reader_[index(input)] == (overwritten ? -1 : b)) kept_[index(input)] = {};
  };
  forget(true);
  if (is_decoder) visitor.end(*this);
  if (is_revised) run_windows(visitor.revised(part.graph), part, nullptr);
  forget(false);
  release_weights(part.graph);
}

void BlockRunner::run_windows(const Graph& graph, const Extracted& part, BlockVisitor* visitor) {
  WindowExecutor executor(graph, windows_.window, batch_rows_, pool_);
  prefix_.run(part, executor);
  prefix_.keep(part, executor);
  for (std::int64_t first = 0; first < windows_.tokens(); first += batch_rows_) {
    const std::int64_t rows = std::min(batch_rows_, windows_.tokens() - first);
    std::vector<const void*> inputs;
    for (const ValueId input : part.inputs) inputs.push_back(input_rows(input, first));
    executor.run(inputs, rows);
    batch_first_ = first;
    for (std::size_t i = 0; i < part.outputs.size(); ++i)
      batch_outputs_[index(part.outputs[i])] = executor.output(i);
    if (visitor != nullptr) visitor->batch(*this, first, rows);
    for (const ValueId output : part.outputs) {
      const Kept& kept = kept_[index(output)];
      if (kept.data != nullptr)
        std::memcpy(kept.data + first * kept.row_bytes, batch_outputs_[index(output)],
                    index(rows * kept.row_bytes));
      batch_outputs_[index(output)] = nullptr;
    }
  }
}

// Allocates the values that later blocks read. Unless the inputs are to be kept, reuses the memory
// of a value of the same size that nobody reads after this block; its rows are overwritten batch by
// batch once they have been read.
void BlockRunner::take_memory(int b, bool keep_inputs) {
  const Extracted& part = blocks_[index(b)].part;
  for (const ValueId output : part.outputs) {
    if (last_reader_[index(output)] <= b) continue;
    const Value& value = graph_.value(output);
    const auto row_bytes = value.width * static_cast<std::int64_t>(size_of(value.dtype));
    Kept& kept = kept_[index(output)];
    for (const ValueId input : part.inputs) {
      if (keep_inputs) break;
      if (last_reader_[index(input)] != b || kept_[index(input)].row_bytes != row_bytes) continue;
      kept = kept_[index(input)];
      // Two outputs must not reuse the same memory.
      last_reader_[index(input)] = -1;
      break;
    }
    if (kept.data != nullptr) continue;
    kept.memory = Tensor::allocate(value.dtype, {windows_.tokens(), value.width}, &kept.data);
    kept.row_bytes = row_bytes;
  }
}

const void* BlockRunner::input_rows(ValueId value, std::int64_t first) const {
  const Kept& kept = kept_[index(value)];
  if (kept.data != nullptr) return kept.data + first * kept.row_bytes;
  // The graph's own input: the token ids.
  return windows_.ids.data() + first;
}

std::span<const float> BlockRunner::prefix_rows(ValueId value) const {
  const auto found = prefix_.rows.find(value);
  return found == prefix_.rows.end() ? std::span<const float>() : found->second;
}

const float* BlockRunner::rows_of(ValueId value, std::int64_t first) const {
  if (const float* batch = batch_outputs_[index(value)])
    return batch + (first - batch_first_) * graph_.value(value).width;
  const Kept& kept = kept_[index(value)];
  if (kept.data == nullptr) return nullptr;
  return reinterpret_cast<const float*>(kept.data + first * kept.row_bytes);
}

}  // namespace tandem
