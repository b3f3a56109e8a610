// A sketch for each matrix that a block's Linears, or the head, read or write.
#include "quantize/activation_profile.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "quantize/distribution_sketch.h"
#include "quantize/weight_sink.h"
#include "quantize/window_executor.h"
#include "tensor/tensor.h"

namespace tandem {
namespace {

Distribution distribution_of(const DistributionSketch& sketch, bool is_signed) {
  const auto product = static_cast<std::int64_t>(static_cast<double>(sketch.count()) * 0.999);
  const std::int64_t rank = std::max<std::int64_t>(0, product - 1);
  return {.max = is_signed ? sketch.max() : sketch.max_magnitude(),
          .percentile = is_signed ? sketch.value_at(rank) : sketch.magnitude_at(rank),
          .mean = sketch.mean(),
          .standard_deviation = sketch.standard_deviation()};
}

// Rows that the head is run on at a time: its outputs are as wide as the vocabulary.
constexpr std::int64_t kHeadRows = 64;

enum class Side : std::uint8_t { kInput, kOutput };

struct Matrix {
  DistributionSketch sketch;
  // To be subtracted; empty: none.
  std::vector<float> bias;
  std::int64_t bad_row = -1;
};

// The matrices of a block's Linears, each once, however many read it.
using Matrices = std::map<std::pair<ValueId, Side>, Matrix>;

class Profiler : public BlockVisitor {
 public:
  Profiler(const Graph& graph, const ProfileSettings& settings, const CalibrationWindows& windows,
           ThreadPool& pool)
      : graph_(graph), settings_(settings), windows_(windows), pool_(pool) {}

  // Of the decoder blocks.
  std::vector<ValueId> wanted() const {
    std::vector<ValueId> values = values_of([](const Node& node) { return node.layer >= 0; });
    std::ranges::sort(values);
    values.erase(std::ranges::unique(values).begin(), values.end());
    return values;
  }

  void begin(std::int32_t layer) override {
    matrices_ = matrices_of(layer);
    if (layer + 1 == graph_.layers()) begin_head();
  }

  void batch(const BlockRunner& runner, std::int64_t first, std::int64_t rows) override {
    add(matrices_, first, rows, [&](ValueId value) { return runner.rows_of(value, first); });
    if (!head_executor_ || !head_) return;
    const Extracted& part = head_->part;
    for (std::int64_t at = first; at < first + rows; at += kHeadRows) {
      const std::int64_t count = std::min(kHeadRows, first + rows - at);
      std::vector<const void*> inputs;
      for (const ValueId input : part.inputs) {
        const float* values = runner.rows_of(input, at);
        inputs.push_back(values != nullptr ? static_cast<const void*>(values)
                                           : row_numbers_.data());
      }
      head_executor_->run(inputs, count);
      add(head_matrices_, at, count, [&](ValueId value) {
        const auto output = std::ranges::find(part.outputs, value) - part.outputs.begin();
        return head_executor_->output(static_cast<std::size_t>(output));
      });
    }
  }

  void end(const BlockRunner& runner) override {
    put(runner.layer(), matrices_);
    if (!head_executor_ || !head_) return;
    put(-1, head_matrices_);
    head_executor_.reset();
    release_weights(head_->part.graph);
  }

  ActivationProfile profile;

 private:
  template <typename Test>
  std::vector<ValueId> values_of(Test test) const {
    std::vector<ValueId> values;
    for (const Node& node : graph_.nodes())
      if (node.op == Op::kLinear && test(node))
        values.insert(values.end(), {node.inputs[0], node.output()});
    return values;
  }

  Matrices matrices_of(std::int32_t layer) const {
    Matrices matrices;
    for (const Node& node : graph_.nodes()) {
      if (node.op != Op::kLinear || node.layer != layer) continue;
      matrices.try_emplace({node.inputs[0], Side::kInput});
      Matrix& output = matrices.try_emplace({node.output(), Side::kOutput}).first->second;
      if (settings_.no_bias) output.bias = node.as<LinearAttributes>().bias.to_floats();
    }
    return matrices;
  }

  // Made for the last block, whose rows it reads batch by batch.
  void begin_head() {
    const std::vector<ValueId> values = values_of([](const Node& node) { return node.layer < 0; });
    if (values.empty()) return;
    head_matrices_ = matrices_of(-1);
    head_ = std::move(cut_blocks(graph_, values).back());
    head_executor_ =
        std::make_unique<WindowExecutor>(head_->part.graph, kHeadRows, kHeadRows, pool_);
    row_numbers_.resize(kHeadRows);
    std::iota(row_numbers_.begin(), row_numbers_.end(), 0);
  }

  // Each matrix belongs to one thread, so that sums don't depend on how many there are.
  // `rows_of(value)`: the rows of tokens from `first` on.
  template <typename RowsOf>
  void add(Matrices& matrices, std::int64_t first, std::int64_t rows, RowsOf rows_of) {
    std::vector<std::pair<ValueId, Matrix*>> all;
    for (auto& [key, matrix] : matrices) all.emplace_back(key.first, &matrix);
    pool_.run([&](int index) {
      for (std::int64_t i = index; i < std::ssize(all); i += pool_.threads()) {
        const auto [value, matrix] = all[static_cast<std::size_t>(i)];
        add_rows(*matrix, rows_of(value), first, rows, graph_.value(value).width);
      }
    });
    for (const auto& [value, matrix] : all)
      if (matrix->bad_row >= 0)
        fail(ErrorCode::kInvalidArgument,
             "[profile] {} is not finite for token {} of window {}: expected finite values",
             graph_.value(value).name, matrix->bad_row % windows_.window,
             matrix->bad_row / windows_.window);
  }

  void add_rows(Matrix& matrix, const float* values, std::int64_t first, std::int64_t rows,
                std::int64_t width) const {
    std::vector<float> row(static_cast<std::size_t>(width));
    for (std::int64_t r = 0; r < rows && matrix.bad_row < 0; ++r) {
      if (is_padding(first + r)) continue;
      std::copy_n(values + r * width, width, row.begin());
      for (std::size_t c = 0; c < matrix.bias.size(); ++c) row[c] -= matrix.bias[c];
      if (!matrix.sketch.add(row)) matrix.bad_row = first + r;
    }
  }

  bool is_padding(std::int64_t token) const {
    const auto window = static_cast<std::size_t>(token / windows_.window);
    return !settings_.lengths.empty() && token % windows_.window >= settings_.lengths[window];
  }

  void put(std::int32_t layer, const Matrices& matrices) {
    const auto distribution = [&](ValueId value, Side side) {
      return distribution_of(matrices.at({value, side}).sketch, settings_.is_signed);
    };
    for (const Node& node : graph_.nodes())
      if (node.op == Op::kLinear && node.layer == layer)
        profile[node.name] = {distribution(node.inputs[0], Side::kInput),
                              distribution(node.output(), Side::kOutput)};
  }

  const Graph& graph_;
  const ProfileSettings& settings_;
  const CalibrationWindows& windows_;
  ThreadPool& pool_;
  // Of the block that runs.
  Matrices matrices_;
  // While the last block runs.
  std::optional<Block> head_;
  std::unique_ptr<WindowExecutor> head_executor_;
  Matrices head_matrices_;
  std::vector<std::int32_t> row_numbers_;
};

class ProfileReader {
 public:
  explicit ProfileReader(const fs::path& path)
      : json_(read_json_file(path)), file_(json_, path.string()) {}

  ActivationProfile read() const {
    ActivationProfile profile;
    const JsonObject largest = file_.child("ori"), percentiles = file_.child("top_0_1");
    for (const auto& [module, ignored] : largest.json().items()) {
      const JsonObject max = largest.child(module), percentile = percentiles.child(module);
      const auto read_side = [&](const char* side) {
        return Distribution{.max = number(max, side), .percentile = number(percentile, side)};
      };
      profile[module] = {read_side("input"), read_side("output")};
    }
    return profile;
  }

 private:
  static float number(const JsonObject& object, const char* key) {
    const double value = object.get_number(key);
    // A float's range.
    if (!std::isfinite(static_cast<float>(value)))
      fail(ErrorCode::kFormat, "{}: {}: expected a number of 32 bits, got {}", object.where(), key,
           value);
    return static_cast<float>(value);
  }

  Json json_;
  JsonObject file_;
};

}  // namespace

ActivationProfile profile_activations(const Graph& graph, const CalibrationWindows& windows,
                                      const ProfileSettings& settings, ThreadPool& pool,
                                      const std::function<void(int, int)>& progress) {
  Profiler profiler(graph, settings, windows, pool);
  BlockRunner(graph, windows, profiler.wanted(), pool).run(profiler, progress);
  return std::move(profiler.profile);
}

OrderedJson to_json(const ActivationProfile& profile) {
  OrderedJson largest = OrderedJson::object(), percentiles = OrderedJson::object(),
              all = OrderedJson::object();
  const auto moments = [](const Distribution& of) {
    return OrderedJson{{"mean", of.mean}, {"std", of.standard_deviation}};
  };
  for (const auto& [module, of] : profile) {
    largest[module] = {{"input", of.input.max}, {"output", of.output.max}};
    percentiles[module] = {{"input", of.input.percentile}, {"output", of.output.percentile}};
    all[module] = {{"input", moments(of.input)}, {"output", moments(of.output)}};
  }
  return {{"ori", std::move(largest)},
          {"top_0_1", std::move(percentiles)},
          {"all_stat", std::move(all)}};
}

ActivationProfile read_activation_profile(const fs::path& path) {
  return ProfileReader(path).read();
}

ClipDecision decide_clip(const Distribution& distribution, double threshold) {
  if (threshold == 0 || distribution.percentile * threshold > distribution.max)
    return {true, distribution.max};
  return {false, distribution.percentile};
}

}  // namespace tandem
