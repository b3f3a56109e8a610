// A recorder for each value that a block's Linears read.
#include "quantize/calibration.h"

#include <algorithm>
#include <cstddef>
#include <optional>

#include "base/error.h"
#include "quantize/activation_recorder.h"
#include "quantize/linear_weights.h"

namespace tandem {
namespace {

class Recorders : public BlockVisitor {
 public:
  Recorders(const Graph& graph, ThreadPool& pool, bool with_shadows, bool with_attention)
      : graph_(graph),
        pool_(pool),
        with_shadows_(with_shadows),
        // What reads int8 codes has its scale already.
        linears_(linears_by_input(graph, [&](const Node& node) {
          return graph.value(node.inputs[0]).dtype == DType::kF32;
        })) {
    if (with_attention) attention.emplace(graph, pool);
  }

  std::vector<ValueId> wanted() const {
    std::vector<ValueId> values = inputs_of(linears_);
    if (!attention) return values;
    for (const ValueId value : attention->wanted())
      if (std::ranges::find(values, value) == values.end()) values.push_back(value);
    return values;
  }
  std::map<std::string, InputStatistics> result;
  std::optional<AttentionRecorder> attention;

  void begin(std::int32_t layer) override {
    if (attention) attention->begin(layer);
    for (const auto& [value, linears] : linears_)
      if (graph_.node(linears.front()).layer == layer)
        recorders_.emplace(
            value, ActivationRecorder(graph_.value(value).width, pool_.threads(), with_shadows_));
  }

  void batch(const BlockRunner& runner, std::int64_t first, std::int64_t rows) override {
    if (attention) attention->batch(runner, first, rows);
    for (auto& [value, recorder] : recorders_) {
      const BadActivation bad = recorder.record(runner.rows_of(value, first), rows, pool_);
      if (bad.row >= 0) fail_activation(value, bad, first + bad.row, runner.windows().window);
    }
  }

  void end(const BlockRunner& runner) override {
    if (attention) attention->end(runner);
    for (const auto& [value, recorder] : recorders_) {
      const InputStatistics statistics = recorder.statistics();
      for (const NodeId linear : linears_.at(value)) result[graph_.node(linear).name] = statistics;
    }
    recorders_.clear();
    layer_ = runner.layer();
  }

  NamedTensors learned() const override {
    NamedTensors tensors = attention ? attention->learned() : NamedTensors();
    for (const auto& [value, linears] : linears_) {
      const Node& node = graph_.node(linears.front());
      if (node.layer != layer_) continue;
      const InputStatistics& of = result.at(node.name);
      const float bounds[] = {of.max, of.percentile, of.least_error};
      tensors[node.name + ".bounds"] = Tensor::from_floats(bounds, {3});
      tensors[node.name + ".channel_max"] =
          Tensor::from_floats(of.channel_max, {static_cast<std::int64_t>(of.channel_max.size())});
      if (!of.shadow_options.empty()) tensors[node.name + ".shadow_options"] = stored(of);
    }
    return tensors;
  }
  void recall(std::int32_t layer, const NamedTensors& learned) override {
    if (attention) attention->recall(layer, learned);
    for (const auto& [value, linears] : linears_) {
      const Node& node = graph_.node(linears.front());
      if (node.layer != layer) continue;
      const std::vector<float> bounds = learned.at(node.name + ".bounds").to_floats();
      for (const NodeId linear : linears)
        result[graph_.node(linear).name] = {
            .max = bounds[0],
            .percentile = bounds[1],
            .least_error = bounds[2],
            .channel_max = learned.at(node.name + ".channel_max").to_floats(),
            .shadow_options = options_in(learned, node.name + ".shadow_options")};
    }
  }

 private:
  // [options, 3].
  static Tensor stored(const InputStatistics& statistics) {
    std::vector<float> values;
    for (const ShadowOption& option : statistics.shadow_options)
      values.insert(values.end(), {static_cast<float>(option.hot), option.bound, option.error});
    return Tensor::from_floats(values, {std::ssize(statistics.shadow_options), 3});
  }
  static std::vector<ShadowOption> options_in(const NamedTensors& learned,
                                              const std::string& name) {
    const auto found = learned.find(name);
    if (found == learned.end()) return {};
    const std::vector<float> values = found->second.to_floats();
    std::vector<ShadowOption> options;
    for (std::size_t i = 0; i + 2 < values.size(); i += 3)
      options.push_back({static_cast<std::int64_t>(values[i]), values[i + 1], values[i + 2]});
    return options;
  }

  [[noreturn]] void fail_activation(ValueId value, const BadActivation& bad, std::int64_t token,
                                    std::int64_t window) const {
    fail(ErrorCode::kInvalidArgument,
         "[calibrate] {}: input {} is {} in channel {} for token {} of window {}: expected finite "
         "values",
         graph_.node(linears_.at(value).front()).name, graph_.value(value).name, bad.value,
         bad.channel, token % window, token / window);
  }

  const Graph& graph_;
  ThreadPool& pool_;
  bool with_shadows_;
  const LinearsByInput linears_;
  // Of the block that runs.
  std::map<ValueId, ActivationRecorder> recorders_;
  std::int32_t layer_ = -1;
};

}  // namespace

CalibrationWindows cut_windows(std::span<const std::int32_t> ids, std::int64_t window,
                               std::int64_t samples) {
  if (window < 1 || samples < 1)
    fail(ErrorCode::kInvalidArgument,
         "[calibrate] {} windows of {} tokens, expected at least one of each", samples, window);
  const auto tokens = static_cast<std::int64_t>(ids.size());
  const std::int64_t count = std::min(samples, tokens / window);
  if (count < 1)
    fail(ErrorCode::kInvalidArgument,
         "[calibrate] the text has {} tokens, expected at least one window of {}", tokens, window);
  const auto used = ids.first(static_cast<std::size_t>(count * window));
  return {{used.begin(), used.end()}, window};
}

CalibrationWindows some_of(const CalibrationWindows& windows, std::int64_t count) {
  const std::vector<bool> chosen = spread_windows(windows, count * windows.window);
  CalibrationWindows some{{}, windows.window, windows.prefix};
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    if (!chosen[i]) continue;
    const auto first = windows.ids.begin() + static_cast<std::ptrdiff_t>(i) * windows.window;
    some.ids.insert(some.ids.end(), first, first + windows.window);
  }
  return some;
}

std::map<std::string, InputStatistics> calibrate(const Graph& graph,
                                                 const CalibrationWindows& windows,
                                                 ThreadPool& pool,
                                                 const std::function<void(int, int)>& progress,
                                                 BlockJournal* journal, bool with_shadows,
                                                 AttentionRanges* ranges) {
  Recorders recorders(graph, pool, with_shadows, ranges != nullptr);
  BlockRunner(graph, windows, recorders.wanted(), pool).run(recorders, progress, journal);
  if (ranges != nullptr && recorders.attention) *ranges = std::move(recorders.attention->result);
  return std::move(recorders.result);
}

}  // namespace tandem
