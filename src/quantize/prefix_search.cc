// One pass over the text, which keeps one number for each token and layer.
#include "quantize/prefix_search.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "base/error.h"
#include "graph/uses.h"

namespace tandem {
namespace {

// What Linears read that multiplies two values.
std::vector<ValueId> products(const Graph& graph) {
  const Uses uses(graph);
  std::vector<ValueId> values;
  for (const Node& node : graph.nodes()) {
    if (node.op != Op::kLinear || node.layer < 0) continue;
    const NodeId producer = uses.producer(node.inputs[0]);
    if (producer >= 0 && graph.node(producer).op == Op::kMul) values.push_back(node.inputs[0]);
  }
  std::ranges::sort(values);
  values.erase(std::unique(values.begin(), values.end()), values.end());
  return values;
}

// The largest |x| of each token, for every value and its layer.
class LargestOfTokens : public BlockVisitor {
 public:
  explicit LargestOfTokens(std::vector<ValueId> values) : values_(std::move(values)) {}

  std::map<std::pair<std::int32_t, ValueId>, std::vector<float>> largest;

  void batch(const BlockRunner& runner, std::int64_t first, std::int64_t rows) override {
    for (const ValueId value : values_) {
      const float* x = runner.rows_of(value, first);
      if (x == nullptr) continue;
      const std::int64_t width = runner.graph().value(value).width;
      auto& of_tokens = largest[{runner.layer(), value}];
      of_tokens.resize(static_cast<std::size_t>(runner.windows().tokens()));
      for (std::int64_t row = 0; row < rows; ++row, x += width) {
        float most = 0;
        for (std::int64_t c = 0; c < width; ++c) most = std::max(most, std::abs(x[c]));
        of_tokens[static_cast<std::size_t>(first + row)] = most;
      }
    }
  }

 private:
  std::vector<ValueId> values_;
};

float median_of(std::vector<float> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

PrefixSearch search_prefix(const Graph& graph, const CalibrationWindows& windows,
                           std::int32_t first, std::int64_t most, ThreadPool& pool,
                           const std::function<void(int, int)>& progress) {
  const std::vector<ValueId> values = products(graph);
  LargestOfTokens visitor(values);
  BlockRunner(graph, windows, values, pool).run(visitor, progress);
  PrefixSearch search;
  const auto window = static_cast<std::size_t>(windows.window);
  const std::size_t count = windows.ids.size() / window;
  double worst = 0;
  bool has_first = false;
  std::map<std::int32_t, std::int64_t> frequency;
  for (const auto& [place, largest] : visitor.largest) {
    PrefixSearch::Layer layer{
        .layer = place.first, .median = median_of(largest), .max = std::ranges::max(largest)};
    for (std::size_t token = 0; token < largest.size(); ++token) {
      if (!(largest[token] > kPrefixThreshold * layer.median)) continue;
      layer.outliers += 1 / static_cast<double>(count);
      has_first = has_first || token % window == 0;
      if (token % window != 0) ++frequency[windows.ids[token]];
    }
    worst = std::max(worst, layer.outliers);
    search.layers.push_back(layer);
  }
  // Means are sums of 1 / count: not above a whole number by a last bit.
  const auto wanted = std::min(static_cast<std::int64_t>(std::ceil(worst - 1e-9)), most);
  std::vector<std::pair<std::int64_t, std::int32_t>> by_frequency;
  for (const auto& [id, times] : frequency) by_frequency.emplace_back(-times, id);
  std::ranges::sort(by_frequency);
  for (const auto& [times, id] : by_frequency)
    if (static_cast<std::int64_t>(search.prefix.size()) < wanted - (has_first ? 1 : 0))
      search.prefix.push_back(id);
  if (has_first && wanted > 0) search.prefix.push_back(first);
  return search;
}

std::vector<std::int32_t> prefix_of(const Recipe& recipe, const Graph& graph, const ModelInfo& info,
                                    const CalibrationWindows* windows, ThreadPool& pool,
                                    Observer& observer) {
  for (const std::int32_t id : recipe.calibration.prefix)
    if (id >= info.vocabulary)
      fail(ErrorCode::kInvalidArgument,
           "[quantize] prefix: expected token ids from 0 to {}, got {}", info.vocabulary - 1, id);
  if (!recipe.calibration.searches_prefix) return recipe.calibration.prefix;
  if (!info.bos && info.eos.empty())
    fail(ErrorCode::kInvalidArgument,
         "[quantize] prefix: the model has neither a token that begins texts nor one that ends "
         "them: expected the prefix's token ids");
  const auto first = static_cast<std::int32_t>(info.bos ? *info.bos : info.eos.front());
  Task task(observer, "prefix", graph.layers(), "blocks");
  return search_prefix(graph, *windows, first, kMostPrefixTokens, pool,
                       [&](int, int) { task.advance(); })
      .prefix;
}

}  // namespace tandem
