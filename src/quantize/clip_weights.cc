// Both search the same grid: twenty parts of the largest weight, then twenty around the best.
#include "quantize/clip_weights.h"

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "quantize/clip_search.h"
#include "quantize/fake_quantize.h"
#include "quantize/kept_codes.h"
#include "quantize/linear_weights.h"

namespace tandem {
namespace {

constexpr ClipGrid kGrid{.steps = 20, .count = 20, .fine = 20};
// Tokens, at least, that errors are computed on; fewer than twice as many.
constexpr std::int64_t kTokens = 512;

bool is_clipped(const Node& node, const Recipe& recipe) {
  return node.op == Op::kLinear && !is_quantized(node) &&
         resolve(recipe, node.name).decode.weights != WeightType::kFloat;
}

Tensor search_bounds(const Node& node, const Recipe& recipe, std::span<const float> x,
                     ThreadPool& pool) {
  return search_clip(*rows_of(node), resolve(recipe, node.name).decode, x, pool, kGrid);
}

Graph with_bounds(const Graph& graph, const NamedTensors& bounds) {
  std::map<std::string, Rows> weights;
  for (const Node& node : graph.nodes())
    if (const auto found = bounds.find(node.name); found != bounds.end())
      weights[node.name] = clamp_groups(rows_of(node), found->second);
  return with_weights(graph, weights);
}

class OutputClipper : public BlockVisitor {
 public:
  OutputClipper(const Graph& graph, const Recipe& recipe, const CalibrationWindows& windows,
                ThreadPool& pool, Observer& observer)
      : graph_(graph),
        recipe_(recipe),
        pool_(pool),
        stride_(std::max<std::int64_t>(1, windows.tokens() / kTokens)),
        linears_(
            linears_by_input(graph, [&](const Node& node) { return is_clipped(node, recipe); })) {
    std::int64_t count = 0;
    for (const auto& [value, linears] : linears_) count += std::ssize(linears);
    task_ = std::make_unique<Task>(observer, "seqmse", count, "weights");
  }

  std::vector<ValueId> wanted() const { return inputs_of(linears_); }
  // By module.
  NamedTensors bounds;

  void begin(std::int32_t layer) override {
    for (const auto& [value, linears] : linears_)
      if (graph_.node(linears.front()).layer == layer) rows_[value];
  }

  void batch(const BlockRunner& runner, std::int64_t first, std::int64_t rows) override {
    for (auto& [value, seen] : rows_) {
      const std::int64_t width = graph_.value(value).width;
      const float* x = runner.rows_of(value, first);
      for (std::int64_t row = 0; row < rows; ++row)
        if ((first + row) % stride_ == 0)
          seen.insert(seen.end(), x + row * width, x + (row + 1) * width);
    }
  }

  void end(const BlockRunner& runner) override {
    layer_ = runner.layer();
    for (const auto& [value, x] : rows_)
      for (const NodeId id : linears_.at(value)) {
        const Node& node = graph_.node(id);
        bounds[node.name] = search_bounds(node, recipe_, x, pool_);
        task_->advance();
      }
    rows_.clear();
  }

  NamedTensors learned() const override {
    NamedTensors tensors;
    for (const auto& [value, linears] : linears_)
      for (const NodeId id : linears)
        if (const Node& node = graph_.node(id); node.layer == layer_)
          tensors[node.name] = bounds.at(node.name);
    return tensors;
  }
  void recall(std::int32_t /*layer*/, const NamedTensors& learned) override {
    bounds.insert(learned.begin(), learned.end());
    task_->advance(static_cast<std::int64_t>(learned.size()));
  }

  bool revises() const override { return true; }
  Graph revised(const Graph& block) const override {
    const Graph clipped = with_bounds(block, bounds);
    std::map<std::string, Rows> weights;
    for (const Node& node : clipped.nodes()) {
      if (!bounds.contains(node.name)) continue;
      const Rows source = rows_of(node);
      const RowSource& rows = *source;
      const FakeQuantizer quantizer(resolve(recipe_, node.name).decode, rows.columns());
      weights[node.name] = stored_rows(
          Tensor::from_floats(quantizer.quantize_rows(rows, pool_), {rows.rows(), rows.columns()}));
    }
    return with_weights(clipped, weights);
  }

 private:
  const Graph& graph_;
  const Recipe& recipe_;
  ThreadPool& pool_;
  const std::int64_t stride_;
  const LinearsByInput linears_;
  std::unique_ptr<Task> task_;
  // Of the block that runs, rows spread over all tokens.
  std::map<ValueId, std::vector<float>> rows_;
  std::int32_t layer_ = -1;
};

}  // namespace

Graph clip_weights(const Graph& graph, const Recipe& recipe, ThreadPool& pool, Observer& observer) {
  Task task(observer, "mse_clip", std::ranges::count(graph.nodes(), Op::kLinear, &Node::op),
            "weights");
  NamedTensors bounds;
  for (const Node& node : graph.nodes()) {
    if (is_clipped(node, recipe)) bounds[node.name] = search_bounds(node, recipe, {}, pool);
    if (node.op == Op::kLinear) task.advance();
  }
  return with_bounds(graph, bounds);
}

Graph clip_outputs(const Graph& graph, const Recipe& recipe, const CalibrationWindows& windows,
                   ThreadPool& pool, Observer& observer, BlockJournal* journal) {
  OutputClipper clipper(graph, recipe, windows, pool, observer);
  BlockRunner(graph, windows, clipper.wanted(), pool).run(clipper, {}, journal);
  return with_bounds(graph, clipper.bounds);
}

}  // namespace tandem
