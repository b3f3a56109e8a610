// Both searches, block by block: all factors of a block are chosen on its unscaled weights, then
// folded, and what is folded is clipped.
#include "quantize/awq.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "graph/extract.h"
#include "graph/uses.h"
#include "quantize/clip_search.h"
#include "quantize/fake_quantize.h"
#include "quantize/linear_weights.h"
#include "quantize/products.h"
#include "quantize/window_executor.h"

namespace tandem {
namespace {

// Tokens, at least, that the clip search looks at; fewer than twice as many.
constexpr std::int64_t kClipTokens = 512;
// A clip search costs the square of the group for each group.
constexpr std::int64_t kLargestClipGroup = 512;
constexpr float kSmallestFactor = 1e-4F;

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

// Of products, with Quark's order: the type of the scales.
DType rounding(const Graph& graph, const Recipe& recipe, const AwqSettings& settings,
               const std::vector<ScalingGroup>& groups) {
  if (!settings.quark || groups.empty()) return DType::kF32;
  return resolve(recipe, graph.node(groups.front().linears.front()).name).decode.scales;
}

double sum_of_squares(std::span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += double{value} * value;
  return sum;
}

// What was seen of one value while its block ran.
struct Seen {
  std::int64_t width = 0;
  // Sum of |x| by channel over all tokens.
  std::vector<double> sums;
  // Rows of the windows that are searched on, and rows spread over all tokens.
  std::vector<float> search;
  std::vector<float> clip;

  std::vector<float> mean(std::int64_t tokens) const {
    std::vector<float> result;
    for (const double sum : sums)
      result.push_back(static_cast<float>(sum / static_cast<double>(tokens)));
    return result;
  }
};

class Awq : public BlockVisitor {
 public:
  Awq(const Graph& graph, const Recipe& recipe, const AwqSettings& settings,
      const CalibrationWindows& windows, ThreadPool& pool)
      : graph_(graph),
        uses_(graph),
        recipe_(recipe),
        settings_(settings),
        windows_(windows),
        pool_(pool),
        clip_stride_(std::max<std::int64_t>(1, windows.tokens() / kClipTokens)),
        searched_(spread_windows(windows, settings.search_tokens)),
        search_rows_(std::ranges::count(searched_, true) * windows.window) {
    for (ScalingGroup& group : find_scaling_groups(graph))
      if (std::ranges::any_of(group.linears, [&](NodeId id) { return is_quantized(id); }))
        groups_.push_back(std::move(group));
    for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id)
      if (graph.node(id).layer >= 0) last_of_layer_[graph.node(id).layer] = graph.node(id).output();
  }

  std::vector<ValueId> wanted() const {
    std::vector<ValueId> values;
    for (const ScalingGroup& group : groups_) {
      values.push_back(group.value);
      if (settings_.quark) values.push_back(last_of_layer_.at(group.layer));
      for (const ValueId input : inputs_of(group)) values.push_back(input);
    }
    std::ranges::sort(values);
    const auto repeated = std::ranges::unique(values);
    values.erase(repeated.begin(), repeated.end());
    return values;
  }
  // Candidates, and Linears to be clipped, are what is reported.
  void start(Observer& observer) {
    std::int64_t count = 0;
    for (const ScalingGroup& group : groups_)
      count += kAwqExponents +
               std::ranges::count_if(group.linears, [&](NodeId id) { return is_clipped(id); });
    task_ = std::make_unique<Task>(observer, "awq", count, "trials");
  }
  AwqResult found;

  void begin(std::int32_t layer) override {
    const auto watch = [&](ValueId value) { seen_[value].width = graph_.value(value).width; };
    for (const ScalingGroup& group : groups_) {
      if (group.layer != layer) continue;
      watch(group.value);
      seen_[group.value].sums.resize(index(graph_.value(group.value).width));
      if (settings_.quark) watch(last_of_layer_.at(layer));
      for (const ValueId input : inputs_of(group)) watch(input);
    }
  }

  void batch(const BlockRunner& runner, std::int64_t first, std::int64_t rows) override {
    for (auto& [value, seen] : seen_) {
      const float* x = runner.rows_of(value, first);
      if (x == nullptr) fail(ErrorCode::kInternal, "[awq] value {} was not computed", value);
      if (!seen.sums.empty()) add_magnitudes(value, seen, x, rows);
      for (std::int64_t row = 0; row < rows; ++row) {
        const float* from = x + row * seen.width;
        const std::int64_t token = first + row;
        if (searched_[index(token / windows_.window)])
          seen.search.insert(seen.search.end(), from, from + seen.width);
        if (!seen.sums.empty() && token % clip_stride_ == 0)
          seen.clip.insert(seen.clip.end(), from, from + seen.width);
      }
    }
  }

  void end(const BlockRunner& runner) override {
    std::vector<ScalingGroup> groups;
    std::vector<std::vector<float>> factors;
    for (const ScalingGroup& group : groups_) {
      if (group.layer != runner.layer()) continue;
      found.scalings.push_back(search_factors(group));
      groups.push_back(group);
      factors.push_back(found.scalings.back().factors);
    }
    if (settings_.clip) {
      const Graph scaled =
          rescale(graph_, groups, factors, rounding(graph_, recipe_, settings_, groups));
      for (std::size_t g = 0; g < groups.size(); ++g) clip(scaled, groups[g], factors[g]);
    }
    seen_.clear();
    layer_ = runner.layer();
  }

  NamedTensors learned() const override {
    NamedTensors tensors;
    for (const AwqScaling& scaling : found.scalings) {
      if (scaling.group.layer != layer_) continue;
      const std::string name = name_of(scaling.group);
      std::byte* losses = nullptr;
      tensors[name + ".losses"] = Tensor::allocate(DType::kF64, {kAwqExponents}, &losses);
      std::memcpy(losses, scaling.losses.data(), sizeof scaling.losses);
      tensors[name + ".factors"] =
          Tensor::from_floats(scaling.factors, {static_cast<std::int64_t>(scaling.factors.size())});
      for (const NodeId id : scaling.group.linears)
        if (const auto bounds = found.bounds.find(id); bounds != found.bounds.end())
          tensors[graph_.node(id).name + ".bounds"] = bounds->second;
    }
    return tensors;
  }
  void recall(std::int32_t layer, const NamedTensors& learned) override {
    for (const ScalingGroup& group : groups_) {
      if (group.layer != layer) continue;
      const std::string name = name_of(group);
      AwqScaling scaling{.group = group,
                         .losses = {},
                         .best = 0,
                         .factors = learned.at(name + ".factors").to_floats()};
      std::ranges::copy(learned.at(name + ".losses").as<double>(), scaling.losses.begin());
      scaling.best =
          static_cast<int>(std::ranges::min_element(scaling.losses) - scaling.losses.begin());
      found.scalings.push_back(std::move(scaling));
      task_->advance(kAwqExponents);
      for (const NodeId id : group.linears) {
        const auto bounds = learned.find(graph_.node(id).name + ".bounds");
        if (bounds == learned.end()) continue;
        found.bounds[id] = bounds->second;
        task_->advance();
      }
    }
  }

 private:
  std::string name_of(const ScalingGroup& group) const {
    return graph_.node(group.linears.front()).name;
  }
  Scheme scheme_of(NodeId id) const { return resolve(recipe_, graph_.node(id).name).decode; }
  bool is_quantized(NodeId id) const { return scheme_of(id).weights != WeightType::kFloat; }

  // What a group's nodes read besides its value: the angles of the attention's positions.
  std::vector<ValueId> inputs_of(const ScalingGroup& group) const {
    if (group.absorber != Absorber::kNorm) return {};
    std::vector<ValueId> inputs = extract(graph_, group.nodes).inputs;
    std::erase(inputs, group.value);
    return inputs;
  }

  void add_magnitudes(ValueId value, Seen& seen, const float* x, std::int64_t rows) {
    pool_.parallel_for(seen.width, 16, [&](Range channels) {
      for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t c = channels.begin; c < channels.end; ++c)
          seen.sums[index(c)] += std::abs(x[row * seen.width + c]);
    });
    const auto bad =
        std::ranges::find_if(seen.sums, [](double sum) { return !std::isfinite(sum); });
    if (bad == seen.sums.end()) return;
    fail(ErrorCode::kInvalidArgument,
         "[awq] {}: its input is not finite in channel {}: expected finite values",
         graph_.node(uses_.readers(value).front()).name, bad - seen.sums.begin());
  }

  AwqScaling search_factors(const ScalingGroup& group) {
    AwqScaling scaling{.group = group, .losses = {}, .best = 0, .factors = {}};
    const std::vector<float> mean = seen_.at(group.value).mean(windows_.tokens());
    const auto loss =
        group.absorber == Absorber::kNorm ? loss_of_readers(group) : loss_of_one(group);
    for (int i = 0; i < kAwqExponents; ++i) {
      std::vector<float> factors = candidate(mean, static_cast<float>(i) / kAwqExponents);
      double& error = scaling.losses[index(i)];
      error = loss(factors);
      task_->advance();
      if (i > 0 && !(error < scaling.losses[index(scaling.best)])) continue;
      scaling.best = i;
      scaling.factors = std::move(factors);
    }
    return scaling;
  }

  // mean^exponent, at least 1e-4, centred on 1.
  static std::vector<float> candidate(const std::vector<float>& mean, float exponent) {
    std::vector<float> factors;
    for (const float m : mean) factors.push_back(std::max(std::pow(m, exponent), kSmallestFactor));
    const auto [low, high] = std::ranges::minmax(factors);
    const float centre = std::sqrt(high * low);
    for (float& factor : factors) factor /= centre;
    return factors;
  }

  // What a Linear computes with for these factors: quantize(w · s) / s.
  Tensor trial(NodeId id, const std::vector<float>& factors) const {
    const Rows rows = rows_of(graph_.node(id));
    const FakeQuantizer quantizer(scheme_of(id), rows->columns());
    std::vector<float> values = quantizer.quantize_rows(*scale_columns(rows, factors), pool_);
    divide_columns(values, factors, pool_);
    return Tensor::from_floats(values, {rows->rows(), rows->columns()});
  }

  using Loss = std::function<double(const std::vector<float>&)>;

  // The mean squared change of what is judged, with all readers quantized.
  Loss loss_of_readers(const ScalingGroup& group) {
    const Extracted part = extract(graph_, group.nodes, std::span(&group.judged, 1));
    std::vector<const std::vector<float>*> inputs;
    for (const ValueId input : part.inputs) inputs.push_back(&seen_.at(input).search);
    const auto at = std::ranges::find(part.inputs, group.value) - part.inputs.begin();
    auto wrong = std::make_shared<std::vector<float>>();
    if (settings_.quark && has_attention(group)) {
      *wrong = output_of_block(group);
      inputs[index(at)] = wrong.get();
    }
    auto want = std::make_shared<std::vector<float>>(run(part, group, inputs));
    return [this, &group, part, inputs, wrong, want](const std::vector<float>& factors) {
      std::map<std::string, Rows> weights;
      for (const NodeId id : group.linears)
        weights[graph_.node(id).name] = stored_rows(trial(id, factors));
      const Extracted changed{with_weights(part.graph, weights), part.inputs, part.outputs};
      std::vector<float> got = run(changed, group, inputs);
      for (std::size_t i = 0; i < got.size(); ++i) got[i] -= (*want)[i];
      return sum_of_squares(got) / static_cast<double>(got.size());
    };
  }

  bool has_attention(const ScalingGroup& group) const {
    return std::ranges::any_of(
        group.nodes, [&](NodeId id) { return graph_.node(id).op == Op::kGroupQueryAttention; });
  }

  // The output of the block through the norm before the group.
  std::vector<float> output_of_block(const ScalingGroup& group) {
    const Extracted norm = extract(graph_, std::span(&group.absorbed_by, 1));
    const std::vector<float>* const input = &seen_.at(last_of_layer_.at(group.layer)).search;
    return run_windows(norm, 0, {input});
  }

  std::vector<float> run(const Extracted& part, const ScalingGroup& group,
                         const std::vector<const std::vector<float>*>& inputs) const {
    const auto output = std::ranges::find(part.outputs, group.judged) - part.outputs.begin();
    return run_windows(part, index(output), inputs);
  }

  // An output for all rows that are searched on.
  std::vector<float> run_windows(const Extracted& part, std::size_t output,
                                 const std::vector<const std::vector<float>*>& inputs) const {
    const std::int64_t width = part.graph.value(part.graph.outputs()[output]).width;
    std::vector<float> result(index(search_rows_ * width));
    WindowExecutor executor(part.graph, windows_.window, windows_.window, pool_);
    for (std::int64_t first = 0; first < search_rows_; first += windows_.window) {
      std::vector<const void*> rows;
      for (std::size_t i = 0; i < inputs.size(); ++i)
        rows.push_back(inputs[i]->data() + first * part.graph.value(part.graph.inputs()[i]).width);
      executor.run(rows, windows_.window);
      std::copy_n(executor.output(output), windows_.window * width,
                  result.begin() + static_cast<std::ptrdiff_t>(first * width));
    }
    return result;
  }

  // The same for a single Linear: from the Gram matrix of its input, or from the input itself where
  // that has fewer rows than columns.
  Loss loss_of_one(const ScalingGroup& group) {
    const NodeId id = group.linears.front();
    const Rows rows = rows_of(graph_.node(id));
    const std::vector<float>& x = seen_.at(group.value).search;
    const double outputs = static_cast<double>(search_rows_) * static_cast<double>(rows->rows());
    std::shared_ptr<Tensor> gram;
    if (search_rows_ > rows->columns()) {
      GramMatrix sums(rows->columns(), pool_);
      sums.add(x);
      gram = std::make_shared<Tensor>(
          Tensor::from_floats(sums.values(), {rows->columns(), rows->columns()}));
    }
    return [this, id, rows, &x, outputs, gram](const std::vector<float>& factors) {
      std::vector<float> difference = difference_of(id, factors);
      if (gram == nullptr) {
        const Tensor weight = Tensor::from_floats(difference, {rows->rows(), rows->columns()});
        return sum_of_squares(multiply(x, weight, pool_)) / outputs;
      }
      const std::vector<float> product = multiply(difference, *gram, pool_);
      return std::inner_product(product.begin(), product.end(), difference.begin(), 0.0,
                                std::plus<>(), [](double a, double b) { return a * b; }) /
             outputs;
    };
  }

  // trial() less the weight itself.
  std::vector<float> difference_of(NodeId id, const std::vector<float>& factors) const {
    const Rows rows = rows_of(graph_.node(id));
    std::vector<float> values = trial(id, factors).to_floats();
    pool_.parallel_for(rows->rows(), 1, [&](Range range) {
      visit_rows(*rows, range.begin, range.end, [&](std::int64_t row, std::span<float> weights) {
        float* const difference = values.data() + row * rows->columns();
        for (std::size_t i = 0; i < weights.size(); ++i) difference[i] -= weights[i];
      });
    });
    return values;
  }

  void clip(const Graph& scaled, const ScalingGroup& group, const std::vector<float>& factors) {
    const Seen& seen = seen_.at(group.value);
    const std::vector<float> divisors =
        settings_.quark ? factors : expanded_factors(group, factors);
    std::vector<float> x = seen.clip;
    divide_columns(x, divisors, pool_);
    for (const NodeId id : group.linears) {
      if (!is_clipped(id)) continue;
      found.bounds[id] = search_clip(*rows_of(scaled.node(id)), scheme_of(id), x, pool_);
      task_->advance();
    }
  }

  bool is_clipped(NodeId id) const {
    const Scheme scheme = scheme_of(id);
    const std::int64_t columns =
        scheme.group > 0 ? scheme.group : rows_of(graph_.node(id))->columns();
    return settings_.clip && scheme.weights != WeightType::kFloat && columns <= kLargestClipGroup &&
           !is_rotated(id);
  }

  // Whether a Linear computes queries or keys, whose products an error disturbs more than it shows.
  bool is_rotated(NodeId id) const {
    ValueId value = graph_.node(id).output();
    while (uses_.readers(value).size() == 1) {
      const Node& reader = graph_.node(uses_.readers(value).front());
      if (reader.op == Op::kRotaryEmbedding) return true;
      if (reader.op == Op::kGroupQueryAttention) return value != reader.inputs[2];
      if (reader.op != Op::kRmsNorm) return false;
      value = reader.output();
    }
    return false;
  }

  const Graph& graph_;
  const Uses uses_;
  const Recipe& recipe_;
  const AwqSettings& settings_;
  const CalibrationWindows& windows_;
  ThreadPool& pool_;
  std::unique_ptr<Task> task_;
  const std::int64_t clip_stride_;
  // By window.
  const std::vector<bool> searched_;
  const std::int64_t search_rows_;
  std::vector<ScalingGroup> groups_;
  std::map<std::int32_t, ValueId> last_of_layer_;
  // Of the block that runs.
  std::map<ValueId, Seen> seen_;
  std::int32_t layer_ = -1;
};

}  // namespace

AwqResult search_awq(const Graph& graph, const Recipe& recipe, const AwqSettings& settings,
                     const CalibrationWindows& windows, ThreadPool& pool, Observer& observer,
                     BlockJournal* journal) {
  Awq awq(graph, recipe, settings, windows, pool);
  awq.start(observer);
  BlockRunner(graph, windows, awq.wanted(), pool).run(awq, {}, journal);
  return std::move(awq.found);
}

Graph apply_awq(const Graph& graph, const Recipe& recipe, const AwqSettings& settings,
                const AwqResult& result) {
  std::vector<ScalingGroup> groups;
  std::vector<std::vector<float>> factors;
  for (const AwqScaling& scaling : result.scalings) {
    groups.push_back(scaling.group);
    factors.push_back(scaling.factors);
  }
  const Graph scaled = rescale(graph, groups, factors, rounding(graph, recipe, settings, groups));
  std::map<std::string, Rows> clipped;
  for (const auto& [id, bounds] : result.bounds)
    clipped[scaled.node(id).name] = clamp_groups(rows_of(scaled.node(id)), bounds);
  return with_weights(scaled, clipped);
}

}  // namespace tandem
