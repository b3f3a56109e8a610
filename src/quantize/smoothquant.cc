// One pass over the text for the activations, one over the weights for each alpha that is tried,
// and a rescaled graph.
#include "quantize/smoothquant.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "base/error.h"
#include "graph/ops.h"
#include "quantize/activation_recorder.h"
#include "quantize/fake_quantize.h"
#include "quantize/linear_weights.h"
#include "quantize/products.h"
#include "quantize/quantize_linears.h"

namespace tandem {
namespace {

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

double alpha_at(std::size_t i) { return static_cast<double>(i) / (kSmoothQuantAlphas - 1); }

// The alpha with the least loss: 0.5 unless another has less.
std::size_t best_of(std::span<const double> losses) {
  const std::size_t half = losses.size() / 2;
  const auto least = std::ranges::min_element(losses);
  return *least < losses[half] ? index(least - losses.begin()) : half;
}

// What was seen of one value while its block ran.
struct Seen {
  ActivationRecorder recorder;
  // Rows of the windows that are searched on.
  std::vector<float> search;
};

class Smoother : public BlockVisitor {
 public:
  Smoother(const Graph& graph, const Recipe& recipe, const SmoothQuantSettings& settings,
           const CalibrationWindows& windows, ThreadPool& pool, Observer& observer)
      : graph_(graph),
        recipe_(recipe),
        settings_(settings),
        windows_(windows),
        pool_(pool),
        searched_(spread_windows(windows, settings.search_tokens)) {
    for (ScalingGroup& group : find_scaling_groups(graph))
      if (is_smoothed(group)) groups_.push_back(std::move(group));
    task_ = std::make_unique<Task>(observer, "smoothquant", std::ssize(groups_) * trials(),
                                   settings.alpha ? "groups" : "trials");
  }

  std::vector<ValueId> wanted() const {
    std::vector<ValueId> values;
    for (const ScalingGroup& group : groups_) values.push_back(group.value);
    return values;
  }
  std::vector<Smoothing> found;

  void begin(std::int32_t layer) override {
    for (const ScalingGroup& group : groups_)
      if (group.layer == layer)
        seen_.emplace(
            group.value,
            Seen{ActivationRecorder(graph_.value(group.value).width, pool_.threads()), {}});
  }

  void batch(const BlockRunner& runner, std::int64_t first, std::int64_t rows) override {
    for (const ScalingGroup& group : groups_) {
      if (group.layer != runner.layer()) continue;
      Seen& seen = seen_.at(group.value);
      const std::int64_t width = graph_.value(group.value).width;
      const float* x = runner.rows_of(group.value, first);
      if (x == nullptr)
        fail(ErrorCode::kInternal, "[smoothquant] value {} was not computed", group.value);
      const BadActivation bad = seen.recorder.record(x, rows, pool_);
      if (bad.row >= 0)
        fail(ErrorCode::kInvalidArgument,
             "[smoothquant] {}: its input is {} in channel {} for token {} of window {}: expected "
             "finite values",
             name_of(group), bad.value, bad.channel, (first + bad.row) % windows_.window,
             (first + bad.row) / windows_.window);
      for (std::int64_t row = 0; row < rows && !settings_.alpha; ++row)
        if (searched_[index((first + row) / windows_.window)])
          seen.search.insert(seen.search.end(), x + row * width, x + (row + 1) * width);
    }
  }

  void end(const BlockRunner& runner) override {
    for (const ScalingGroup& group : groups_)
      if (group.layer == runner.layer()) found.push_back(smoothing_of(group));
    seen_.clear();
    layer_ = runner.layer();
  }

  NamedTensors learned() const override {
    NamedTensors tensors;
    for (const Smoothing& smoothing : found) {
      if (smoothing.group.layer != layer_) continue;
      const std::string name = name_of(smoothing.group);
      tensors[name + ".factors"] =
          Tensor::from_floats(smoothing.factors, {std::ssize(smoothing.factors)});
      if (settings_.alpha) continue;
      std::byte* losses = nullptr;
      tensors[name + ".losses"] = Tensor::allocate(DType::kF64, {kSmoothQuantAlphas}, &losses);
      std::ranges::copy(std::as_bytes(std::span(smoothing.losses)), losses);
    }
    return tensors;
  }
  void recall(std::int32_t layer, const NamedTensors& learned) override {
    for (const ScalingGroup& group : groups_) {
      if (group.layer != layer) continue;
      const std::string name = name_of(group);
      Smoothing smoothing{.group = group,
                          .alpha = settings_.alpha.value_or(0),
                          .losses = {},
                          .factors = learned.at(name + ".factors").to_floats()};
      if (!settings_.alpha) {
        const auto losses = learned.at(name + ".losses").as<double>();
        smoothing.losses.assign(losses.begin(), losses.end());
        smoothing.alpha = alpha_at(best_of(losses));
      }
      found.push_back(std::move(smoothing));
      task_->advance(trials());
    }
  }

 private:
  std::string name_of(const ScalingGroup& group) const {
    return graph_.node(group.linears.front()).name;
  }
  Scheme scheme_of(NodeId id) const { return resolve(recipe_, graph_.node(id).name).prefill; }
  bool is_smoothed(const ScalingGroup& group) const {
    if (group.absorber != Absorber::kNorm && !settings_.everywhere) return false;
    return settings_.alpha || std::ranges::any_of(group.linears, [&](NodeId id) {
             return scheme_of(id).weights != WeightType::kFloat;
           });
  }
  std::int64_t trials() const { return settings_.alpha ? 1 : kSmoothQuantAlphas; }

  Smoothing smoothing_of(const ScalingGroup& group) {
    const Seen& seen = seen_.at(group.value);
    const std::vector<float> x = seen.recorder.statistics().channel_max;
    const std::vector<float> w = column_maxima(group);
    if (settings_.alpha) {
      task_->advance();
      return {.group = group,
              .alpha = *settings_.alpha,
              .losses = {},
              .factors = factors_of(group, x, w, *settings_.alpha)};
    }
    std::vector<std::vector<float>> outputs;
    for (const NodeId id : group.linears)
      outputs.push_back(
          multiply(seen.search, as_tensor(values_of(*rows_of(graph_.node(id))), id), pool_));
    Smoothing smoothing{.group = group, .alpha = 0, .losses = {}, .factors = {}};
    for (std::size_t i = 0; i < kSmoothQuantAlphas; ++i) {
      smoothing.losses.push_back(
          loss(group, seen.search, outputs, factors_of(group, x, w, alpha_at(i))));
      task_->advance();
    }
    smoothing.alpha = alpha_at(best_of(smoothing.losses));
    smoothing.factors = factors_of(group, x, w, smoothing.alpha);
    return smoothing;
  }

  // The largest |w| of each column of the group's Linears.
  std::vector<float> column_maxima(const ScalingGroup& group) const {
    std::vector<float> largest(index(graph_.value(group.value).width));
    for (const NodeId id : group.linears) {
      const Rows rows = rows_of(graph_.node(id));
      visit_rows(*rows, 0, rows->rows(), [&](std::int64_t, std::span<const float> values) {
        for (std::size_t i = 0; i < values.size(); ++i) {
          float& most = largest[i % largest.size()];
          most = std::max(most, std::abs(values[i]));
        }
      });
    }
    return largest;
  }

  static std::vector<float> factors_of(const ScalingGroup& group, const std::vector<float>& x,
                                       const std::vector<float>& w, double alpha) {
    std::vector<float> factors(x.size(), 1.0F);
    for (std::size_t c = 0; c < factors.size(); ++c)
      if (x[c] != 0 && w[c] != 0)
        factors[c] =
            static_cast<float>(std::pow(double{x[c]}, alpha) / std::pow(double{w[c]}, 1 - alpha));
    // The query heads that share a head of values have one factor.
    return expanded_factors(group, factors);
  }

  static std::vector<float> values_of(const RowSource& rows) {
    std::vector<float> values(index(rows.rows() * rows.columns()));
    rows.read(0, values);
    return values;
  }
  Tensor as_tensor(const std::vector<float>& values, NodeId id) const {
    const std::int64_t columns = graph_.value(graph_.node(id).inputs[0]).width;
    return Tensor::from_floats(values, {std::ssize(values) / columns, columns});
  }

  // The mean squared difference of the Linears' outputs from what they are in float.
  double loss(const ScalingGroup& group, const std::vector<float>& x,
              const std::vector<std::vector<float>>& outputs,
              const std::vector<float>& factors) const {
    std::vector<float> divided = x;
    divide_columns(divided, factors, pool_);
    ActivationRecorder recorder(std::ssize(factors), pool_.threads());
    recorder.record(divided.data(), std::ssize(divided) / std::ssize(factors), pool_);
    const auto scale_for = [&](ActivationType type) {
      return static_scale(recorder.statistics(), recipe_.calibration.input_bound, type);
    };
    double sum = 0, count = 0;
    for (std::size_t l = 0; l < group.linears.size(); ++l) {
      const NodeId id = group.linears[l];
      const Scheme scheme = scheme_of(id);
      std::vector<float> input = divided;
      round_input(scheme.activations, scale_for(scheme.activations), index(std::ssize(factors)),
                  input);
      const FakeQuantizer quantizer(scheme, std::ssize(factors));
      const std::vector<float> weight =
          quantizer.quantize_rows(*scale_columns(rows_of(graph_.node(id)), factors), pool_);
      const std::vector<float> got = multiply(input, as_tensor(weight, id), pool_);
      for (std::size_t i = 0; i < got.size(); ++i) {
        const double off = double{got[i]} - outputs[l][i];
        sum += off * off;
      }
      count += static_cast<double>(got.size());
    }
    return sum / count;
  }

  // To the values behind the codes of rows of this width, static or with a scale for each.
  void round_input(ActivationType type, float scale, std::size_t width, std::span<float> x) const {
    if (type == ActivationType::kFloat) return;
    const bool is_wide = type == ActivationType::kStatic16;
    const float low_code = is_wide ? -static_cast<float>(kMaxInt16Code) : -128.0F;
    const float high_code = is_wide ? static_cast<float>(kMaxInt16Code) : 127.0F;
    pool_.parallel_for(static_cast<std::int64_t>(x.size() / width), 16, [&](Range rows) {
      for (std::int64_t row = rows.begin; row < rows.end; ++row) {
        const std::span<float> values = x.subspan(index(row) * width, width);
        float step = scale;
        if (type == ActivationType::kDynamic) {
          const auto [low, high] = std::ranges::minmax(values);
          step = std::max({-low, high, 1e-30F}) / 127.0F;
        }
        for (float& value : values)
          value = std::clamp(std::nearbyint(value / step), low_code, high_code) * step;
      }
    });
  }

  const Graph& graph_;
  const Recipe& recipe_;
  const SmoothQuantSettings& settings_;
  const CalibrationWindows& windows_;
  ThreadPool& pool_;
  // By window.
  const std::vector<bool> searched_;
  std::vector<ScalingGroup> groups_;
  std::unique_ptr<Task> task_;
  // Of the block that runs.
  std::map<ValueId, Seen> seen_;
  std::int32_t layer_ = -1;
};

}  // namespace

std::vector<Smoothing> find_smoothing(const Graph& graph, const Recipe& recipe,
                                      const SmoothQuantSettings& settings,
                                      const CalibrationWindows& windows, ThreadPool& pool,
                                      Observer& observer, BlockJournal* journal) {
  Smoother smoother(graph, recipe, settings, windows, pool, observer);
  BlockRunner(graph, windows, smoother.wanted(), pool).run(smoother, {}, journal);
  return std::move(smoother.found);
}

Graph smooth(const Graph& graph, const std::vector<Smoothing>& smoothing) {
  std::vector<ScalingGroup> groups;
  std::vector<std::vector<float>> factors;
  for (const Smoothing& each : smoothing) {
    groups.push_back(each.group);
    factors.push_back(each.factors);
  }
  return rescale(graph, groups, factors);
}

}  // namespace tandem
