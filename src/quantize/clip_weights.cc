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
#include "quantize/linear_weights.h"

namespace tandem {
namespace {

constexpr ClipGrid kGrid{.steps = 20, .count = 20, .fine = 20};
// Tokens, at least, that errors are computed on; fewer than twice as many.
constexpr std::int64_t kTokens = 512;

bool is_quantized(const Node& node, const Recipe& recipe) {
  return node.op == Op::kLinear && resolve(recipe, node.name).decode.weights != WeightType::kFloat;
}

Rows clipped_rows(const Node& node, const Recipe& recipe, std::span<const float> x,
                  ThreadPool& pool) {
  const Rows& rows = rows_of(node);
  const Scheme scheme = resolve(recipe, node.name).decode;
  return clamp_groups(rows, search_clip(*rows, scheme, x, pool, kGrid));
}

class OutputClipper : public BlockVisitor {
 public:
  OutputClipper(const Graph& graph, const Recipe& recipe, const CalibrationWindows& windows,
                ThreadPool& pool, Observer& observer)
      : graph_(graph),
        recipe_(recipe),
        pool_(pool),
        stride_(std::max<std::int64_t>(1, windows.tokens() / kTokens)) {
    std::int64_t count = 0;
    for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
      const Node& node = graph.node(id);
      if (node.layer < 0 || !is_quantized(node, recipe)) continue;
      linears_[node.inputs[0]].push_back(id);
      ++count;
    }
    task_ = std::make_unique<Task>(observer, "seqmse", count, "weights");
  }

  std::vector<ValueId> wanted() const {
    std::vector<ValueId> values;
    for (const auto& [value, linears] : linears_) values.push_back(value);
    return values;
  }
  std::map<std::string, Rows> clipped;

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

  void end(const BlockRunner& /*runner*/) override {
    for (const auto& [value, x] : rows_)
      for (const NodeId id : linears_.at(value)) {
        const Node& node = graph_.node(id);
        clipped[node.name] = clipped_rows(node, recipe_, x, pool_);
        task_->advance();
      }
    rows_.clear();
  }

  bool revises() const override { return true; }
  Graph revised(const Graph& block) const override {
    std::map<std::string, Rows> weights;
    for (const Node& node : block.nodes()) {
      const auto found = clipped.find(node.name);
      if (found == clipped.end()) continue;
      const RowSource& rows = *found->second;
      const FakeQuantizer quantizer(resolve(recipe_, node.name).decode, rows.columns());
      weights[node.name] = stored_rows(
          Tensor::from_floats(quantizer.quantize_rows(rows, pool_), {rows.rows(), rows.columns()}));
    }
    return with_weights(block, weights);
  }

 private:
  const Graph& graph_;
  const Recipe& recipe_;
  ThreadPool& pool_;
  const std::int64_t stride_;
  std::unique_ptr<Task> task_;
  // By the value that they read.
  std::map<ValueId, std::vector<NodeId>> linears_;
  // Of the block that runs, rows spread over all tokens.
  std::map<ValueId, std::vector<float>> rows_;
};

}  // namespace

Graph clip_weights(const Graph& graph, const Recipe& recipe, ThreadPool& pool, Observer& observer) {
  Task task(observer, "mse_clip", std::ranges::count(graph.nodes(), Op::kLinear, &Node::op),
            "weights");
  std::map<std::string, Rows> clipped;
  for (const Node& node : graph.nodes()) {
    if (is_quantized(node, recipe)) clipped[node.name] = clipped_rows(node, recipe, {}, pool);
    if (node.op == Op::kLinear) task.advance();
  }
  return with_weights(graph, clipped);
}

Graph clip_outputs(const Graph& graph, const Recipe& recipe, const CalibrationWindows& windows,
                   ThreadPool& pool, Observer& observer) {
  OutputClipper clipper(graph, recipe, windows, pool, observer);
  BlockRunner(graph, windows, clipper.wanted(), pool).run(clipper, {});
  return with_weights(graph, clipper.clipped);
}

}  // namespace tandem
