// One run over some windows for the activations; R2 is learned while its block's are there.
#include "quantize/learn_rotations.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <optional>
#include <utility>

#include "base/error.h"
#include "graph/ops.h"
#include "graph/uses.h"
#include "quantize/calibration.h"
#include "quantize/cayley.h"
#include "quantize/linear_weights.h"
#include "quantize/passes.h"
#include "quantize/residual_stream.h"
#include "quantize/rotation_loss.h"

namespace tandem {
namespace {

// Tokens that go through the model.
constexpr std::int64_t kTokens = 8192;
// Of each input, of its activations and of the weights.
constexpr std::int64_t kMostRows = 2048;
// Of all inputs that are kept at once, activations and weights each.
constexpr std::int64_t kMostValues = std::int64_t{1} << 26;

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

// A value that a rotation turns, with the Linears that read it.
struct Turned {
  std::int32_t layer = -1;
  ValueId value = -1;
  std::vector<NodeId> linears;
};

class Learner : public BlockVisitor {
 public:
  Learner(const Graph& graph, const Recipe& recipe, const RotateSettings& settings,
          const CalibrationWindows& windows, ThreadPool& pool, Observer& observer)
      : graph_(graph),
        recipe_(recipe),
        settings_(settings),
        pool_(pool),
        observer_(observer),
        windows_(some_of(windows, std::max<std::int64_t>(1, kTokens / windows.window))),
        rotations_(make_rotations(graph, settings)) {
    if (settings.r1 == RotationKind::kLearned) find_stream();
    if (settings.r2 == RotationKind::kLearned) find_values();
  }

  Rotations run() {
    if (stream_.empty() && values_.empty()) return std::move(rotations_);
    std::vector<ValueId> wanted;
    for (const Turned& turned : stream_) wanted.push_back(turned.value);
    for (const Turned& turned : values_) wanted.push_back(turned.value);
    if (!stream_.empty() && rotations_.r1) stream_loss_.emplace(rotations_.r1->size(), pool_);
    {
      Task task(observer_, "rotate", graph_.layers(), "blocks");
      BlockRunner(graph_, windows_, wanted, pool_).run(*this, [&](int, int) { task.advance(); });
    }
    if (stream_loss_ && rotations_.r1) learn(*rotations_.r1, *stream_loss_, "R1");
    return std::move(rotations_);
  }

 private:
  Scheme scheme_of(NodeId id) const {
    const ModulePlan plan = resolve(recipe_, graph_.node(id).name);
    return plan.prefill.weights != WeightType::kFloat ? plan.prefill : plan.decode;
  }
  // A float Linear of a block that is to be rounded.
  bool counts(const Node& node, NodeId id) const {
    return node.layer >= 0 && float_weight(node) != nullptr &&
           scheme_of(id).weights != WeightType::kFloat;
  }

  void find_stream() {
    std::map<ValueId, Turned> found;
    for (const NodeId id : find_residual_stream(graph_).readers) {
      const Node& node = graph_.node(id);
      if (!counts(node, id)) continue;
      Turned& turned = found[node.inputs[0]];
      turned.layer = node.layer;
      turned.value = node.inputs[0];
      turned.linears.push_back(id);
    }
    for (auto& [value, turned] : found) stream_.push_back(std::move(turned));
  }

  void find_values() {
    const Uses uses(graph_);
    for (const Node& node : graph_.nodes()) {
      if (node.op != Op::kGroupQueryAttention) continue;
      const auto readers = uses.readers(node.output());
      if (readers.size() == 1 && counts(graph_.node(readers[0]), readers[0]))
        values_.push_back({node.layer, node.output(), {readers[0]}});
    }
  }

  // Rows of each of these values that are kept.
  std::int64_t rows_of(const std::vector<Turned>& values) const {
    std::int64_t widths = 0;
    for (const Turned& turned : values) widths += graph_.value(turned.value).width;
    return std::clamp<std::int64_t>(kMostValues / widths, 1, kMostRows);
  }

  void batch(const BlockRunner& runner, std::int64_t first, std::int64_t count) override {
    const auto take = [&](const std::vector<Turned>& values, std::int64_t most) {
      const std::int64_t stride = (windows_.tokens() + most - 1) / most;
      for (const Turned& turned : values) {
        if (turned.layer != runner.layer()) continue;
        const float* x = runner.rows_of(turned.value, first);
        const std::int64_t width = graph_.value(turned.value).width;
        std::vector<float>& rows = seen_[turned.value];
        for (std::int64_t row = (stride - first % stride) % stride; row < count; row += stride)
          rows.insert(rows.end(), x + row * width, x + (row + 1) * width);
      }
    };
    if (!stream_.empty()) take(stream_, rows_of(stream_));
    // Of one layer at a time.
    if (!values_.empty()) take(values_, rows_of({values_.front()}));
  }

  void end(const BlockRunner& runner) override {
    for (const Turned& turned : stream_)
      if (stream_loss_ && turned.layer == runner.layer())
        add(turned, rows_of(stream_), *stream_loss_);
    for (const Turned& turned : values_) {
      if (turned.layer != runner.layer()) continue;
      Rotation& rotation = rotations_.r2.at(turned.layer);
      RotationLoss loss(rotation.size(), pool_);
      add(turned, rows_of({turned}), loss);
      learn(rotation, loss, fmt::format("R2 of layer {}", turned.layer));
    }
    seen_.clear();
  }

  void add(const Turned& turned, std::int64_t most, RotationLoss& loss) {
    const std::int64_t width = graph_.value(turned.value).width;
    const Scheme scheme = scheme_of(turned.linears.front());
    if (multiplies_codes(scheme))
      loss.add(std::move(seen_.at(turned.value)), width, of_input(scheme, width));
    std::int64_t all = 0;
    for (const NodeId id : turned.linears) all += float_weight(graph_.node(id))->rows->rows();
    const std::int64_t stride = (all + most - 1) / most;
    for (const NodeId id : turned.linears) {
      const RowSource& weight = *float_weight(graph_.node(id))->rows;
      std::vector<float> rows;
      for (std::int64_t row = 0; row < weight.rows(); row += stride) {
        rows.resize(rows.size() + index(width));
        weight.read(row, std::span(rows).last(index(width)));
      }
      weight.release();
      loss.add(std::move(rows), width, of_weight(scheme_of(id), width));
    }
  }

  Rounding of_input(const Scheme& scheme, std::int64_t width) const {
    if (scheme.activations == ActivationType::kDynamic)
      return {Rounding::Scales::kGroups, 127, width};
    if (scheme.activations == ActivationType::kStatic16)
      return {Rounding::Scales::kTensorMax, kMaxInt16Code, 0};
    const bool reaches_all = recipe_.calibration.input_bound == InputBound::kMax;
    return {reaches_all ? Rounding::Scales::kTensorMax : Rounding::Scales::kTensor, 127, 0};
  }
  static Rounding of_weight(const Scheme& scheme, std::int64_t width) {
    const std::int64_t group = scheme.group > 0 ? scheme.group : width;
    const int bits = bits_of(scheme.weights);
    if (is_signed(scheme.weights))
      return {Rounding::Scales::kGroups, static_cast<double>((1 << (bits - 1)) - 1), group};
    return {Rounding::Scales::kRanges, static_cast<double>((1 << bits) - 1), group};
  }

  // The best rotation of all steps, whose length falls to 0 along a cosine.
  void learn(Rotation& rotation, const RotationLoss& loss, const std::string& name) {
    if (loss.empty()) return;
    Task task(observer_, "learn " + name, settings_.steps, "steps");
    const std::int64_t size = rotation.size();
    std::vector<float> turn = rotation.matrix().to_floats(), best = turn, gradient;
    double first = 0, least = 0;
    for (std::int64_t step = 0; step <= settings_.steps; ++step) {
      const double now = loss.at(turn, gradient);
      if (step == 0) first = least = now;
      if (now < least) {
        least = now;
        best = turn;
      }
      if (step == settings_.steps) break;
      const double part = static_cast<double>(step) / static_cast<double>(settings_.steps);
      const double rate = settings_.learning_rate * (1 + std::cos(std::numbers::pi * part)) / 2;
      turn = cayley_step(turn, gradient, size, rate, pool_);
      task.advance();
    }
    observer_.inform(fmt::format(
        "[rotate] {}: rounding costs {:.4g} of a random Hadamard matrix, {:.4g} of the learned one",
        name, first, least));
    rotation = Rotation(Tensor::from_floats(best, {size, size}));
  }

  const Graph& graph_;
  const Recipe& recipe_;
  const RotateSettings& settings_;
  ThreadPool& pool_;
  Observer& observer_;
  const CalibrationWindows windows_;
  Rotations rotations_;
  // What R1 turns, and what each R2 does.
  std::vector<Turned> stream_, values_;
  std::map<ValueId, std::vector<float>> seen_;
  std::optional<RotationLoss> stream_loss_;
};

}  // namespace

Rotations learn_rotations(const Graph& graph, const Recipe& recipe, const RotateSettings& settings,
                          const CalibrationWindows& windows, ThreadPool& pool, Observer& observer) {
  const bool turns_stream = settings.r1 == RotationKind::kLearned;
  return Learner(turns_stream ? fold_norms(untie_head(graph)) : graph, recipe, settings, windows,
                 pool, observer)
      .run();
}

}  // namespace tandem
