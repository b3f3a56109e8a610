// A sketch for each matrix that a block's Linears read or write.
#include "quantize/activation_profile.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "base/error.h"
#include "quantize/distribution_sketch.h"
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

class Profiler : public BlockVisitor {
 public:
  Profiler(const Graph& graph, const ProfileSettings& settings)
      : graph_(graph), settings_(settings) {
    for (const Node& node : graph.nodes())
      if (node.op == Op::kLinear && node.layer >= 0) linears_.push_back(&node);
  }

  std::vector<ValueId> wanted() const {
    std::vector<ValueId> values;
    for (const Node* node : linears_)
      values.insert(values.end(), {node->inputs[0], node->output()});
    std::ranges::sort(values);
    values.erase(std::ranges::unique(values).begin(), values.end());
    return values;
  }

  void begin(std::int32_t layer) override {
    for (const Node* node : linears_) {
      if (node->layer != layer) continue;
      matrices_.try_emplace({node->inputs[0], Side::kInput});
      matrices_.try_emplace({node->output(), Side::kOutput}).first->second.bias = bias_of(*node);
    }
  }

  // Each matrix belongs to one thread, so that sums don't depend on how many there are.
  void batch(const BlockRunner& runner, std::int64_t first, std::int64_t rows) override {
    std::vector<std::pair<ValueId, Matrix*>> all;
    for (auto& [key, matrix] : matrices_) all.emplace_back(key.first, &matrix);
    const auto count = std::ssize(all);
    runner.pool().run([&](int index) {
      for (std::int64_t i = index; i < count; i += runner.pool().threads()) {
        const auto [value, matrix] = all[static_cast<std::size_t>(i)];
        matrix->add(runner.rows_of(value, first), rows, graph_.value(value).width);
      }
    });
    for (const auto& [value, matrix] : all)
      if (matrix->bad_row >= 0)
        fail(ErrorCode::kInvalidArgument,
             "[profile] {} is not finite for token {} of window {}: expected finite values",
             graph_.value(value).name, (first + matrix->bad_row) % runner.windows().window,
             (first + matrix->bad_row) / runner.windows().window);
  }

  void end(const BlockRunner& runner) override {
    for (const Node* node : linears_)
      if (node->layer == runner.layer())
        profile[node->name] = {distribution(node->inputs[0], Side::kInput),
                               distribution(node->output(), Side::kOutput)};
    matrices_.clear();
  }

  ActivationProfile profile;

 private:
  enum class Side : std::uint8_t { kInput, kOutput };
  struct Matrix {
    DistributionSketch sketch;
    // To be subtracted; empty: none.
    std::vector<float> bias;
    std::int64_t bad_row = -1;

    void add(const float* values, std::int64_t rows, std::int64_t width) {
      std::vector<float> row(static_cast<std::size_t>(width));
      for (std::int64_t r = 0; r < rows && bad_row < 0; ++r) {
        std::copy_n(values + r * width, width, row.begin());
        for (std::size_t c = 0; c < bias.size(); ++c) row[c] -= bias[c];
        if (!sketch.add(row)) bad_row = r;
      }
    }
  };

  std::vector<float> bias_of(const Node& node) const {
    return settings_.no_bias ? node.as<LinearAttributes>().bias.to_floats() : std::vector<float>();
  }
  Distribution distribution(ValueId value, Side side) const {
    return distribution_of(matrices_.at({value, side}).sketch, settings_.is_signed);
  }

  const Graph& graph_;
  const ProfileSettings& settings_;
  std::vector<const Node*> linears_;
  // Of the block that runs.
  std::map<std::pair<ValueId, Side>, Matrix> matrices_;
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
  Profiler profiler(graph, settings);
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
