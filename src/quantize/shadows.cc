// By a threshold of what calibration saw, or by what hot channels are measured to gain.
#include "quantize/shadows.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "base/merge_sort.h"
#include "quantize/doctor.h"
#include "quantize/kept_codes.h"
#include "quantize/linear_weights.h"
#include "quantize/quantize_linears.h"

namespace tandem {
namespace {

// Two windows are enough to rank what single inputs lose.
constexpr std::int64_t kRankingWindows = 2;
// More hot channels are tried if the error of the input is at most this share of what it was with the
// fewer ones that were tried before, and are worth their bytes if the model's loss is at most that
// share of what it was with those.
constexpr double kLeastErrorShare = 0.7;
constexpr double kLeastLossShare = 0.8;
// In a shadow, as F16.
constexpr std::int64_t kBytesPerWeight = 2;

using Statistics = std::map<std::string, InputStatistics>;

// The `hot` channels with the largest maxima that exceed the bound, ascending.
std::vector<std::int32_t> hottest(const std::vector<float>& channel_max, std::int64_t hot,
                                  float bound) {
  std::vector<std::int32_t> channels;
  for (std::int32_t c = 0; c < std::ssize(channel_max); ++c)
    if (channel_max[static_cast<std::size_t>(c)] > bound) channels.push_back(c);
  merge_sort(channels, [&](std::int32_t a, std::int32_t b) {
    return channel_max[static_cast<std::size_t>(a)] > channel_max[static_cast<std::size_t>(b)];
  });
  channels.resize(std::min(channels.size(), static_cast<std::size_t>(hot)));
  std::ranges::sort(channels);
  return channels;
}

// mllm's rule: such a bound clips more than saturation can bear.
Shadow by_threshold(const InputStatistics& input, double threshold) {
  if (!(input.max > threshold * input.percentile)) return {};
  return {input.percentile,
          hottest(input.channel_max, std::ssize(input.channel_max), input.percentile)};
}

// Linears that read the same value, and so have the same scale.
struct Input {
  int block = 0;
  std::vector<std::string> modules;
  std::int64_t output_channels = 0;
  // Of their int8 weights.
  std::int64_t int8_bytes = 0;
  // Worth trying.
  std::vector<Shadow> options;

  std::int64_t bytes_of(const Shadow& shadow) const {
    return kBytesPerWeight * output_channels * std::ssize(shadow.channels);
  }
};

struct Candidate {
  const Input* input = nullptr;
  // None: as the recipe says.
  Shadow shadow;
  // Nats per token.
  double kl = 0;

  std::int64_t bytes() const { return input->bytes_of(shadow); }
};

class BudgetSearch {
 public:
  BudgetSearch(const ShadowContext& context, Statistics& statistics, ThreadPool& pool,
               Observer& observer)
      : recipe_(context.recipe),
        statistics_(statistics),
        pool_(pool),
        observer_(observer),
        windows_(some_of(context.windows, kRankingWindows)),
        sweep_(context.graph, context.loaded, windows_, pool) {
    find_inputs(context.graph);
  }

  void run() {
    // Each input without a shadow, then with its options; those of an input stand together.
    std::vector<Candidate> candidates;
    for (const Input& input : inputs_) {
      candidates.push_back({&input, {}});
      for (const Shadow& shadow : input.options) candidates.push_back({&input, shadow});
    }
    measure(candidates);
    std::vector<Slot> slots;
    // By slot and form.
    std::vector<std::vector<const Candidate*>> kept;
    for (const Candidate& candidate : candidates) {
      const bool is_first = candidate.shadow.channels.empty();
      if (is_first) {
        slots.push_back({.module = candidate.input->modules.front(), .phase = SlotPhase::kPrefill});
        kept.emplace_back();
      }
      std::vector<Form>& forms = slots.back().forms;
      if (!is_first && !(candidate.kl <= kLeastLossShare * forms.back().kl)) continue;
      forms.push_back({.kl = candidate.kl, .bytes = candidate.bytes()});
      kept.back().push_back(&candidate);
    }
    choose_forms(slots, budget_, [](const Slot&) { return true; }, [] { return false; });
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const Candidate& chosen = *kept[i][slots[i].chosen];
      for (const std::string& module : chosen.input->modules)
        statistics_.at(module).shadow = chosen.shadow;
    }
  }

 private:
  void find_inputs(const Graph& graph) {
    std::int64_t int8_bytes = 0;
    const LinearsByInput linears = linears_by_input(
        graph, [&](const Node& node) { return has_static_int8_input(recipe_, node); });
    for (const auto& [value, readers] : linears) {
      Input input;
      for (const NodeId id : readers) {
        const Node& node = graph.node(id);
        const Weight& weight = node.as<LinearAttributes>().weight;
        input.modules.push_back(node.name);
        input.output_channels += output_channels(weight);
        input.int8_bytes += output_channels(weight) * input_channels(weight);
      }
      int8_bytes += input.int8_bytes;
      input.block = sweep_.block_of(input.modules.front());
      inputs_.push_back(std::move(input));
    }
    budget_ = static_cast<std::int64_t>(static_cast<double>(int8_bytes) *
                                        recipe_.calibration.shadow.budget / 100);
    for (Input& input : inputs_) find_options(input);
    std::erase_if(inputs_, [](const Input& input) { return input.options.empty(); });
  }

  void find_options(Input& input) const {
    const InputStatistics& seen = statistics_.at(input.modules.front());
    float last = std::numeric_limits<float>::infinity();
    for (const ShadowOption& option : seen.shadow_options) {
      if (option.hot > 0 && !(option.error <= kLeastErrorShare * last)) continue;
      last = option.error;
      if (option.hot == 0) continue;
      Shadow shadow{option.bound, hottest(seen.channel_max, option.hot, option.bound)};
      if (!shadow.channels.empty() && input.bytes_of(shadow) <= budget_)
        input.options.push_back(std::move(shadow));
    }
  }

  // The model's losses with the Linears of one input in static int8 and all others in float.
  void measure(std::vector<Candidate>& candidates) {
    if (candidates.empty()) return;
    std::vector<Variant> variants;
    for (const Candidate& candidate : candidates)
      variants.push_back({candidate.input->block, candidate.input->block,
                          [&](const Graph& block) { return quantized(block, candidate); }});
    const std::vector<VariantLoss> losses = sweep_.run(variants, "try hot channels", observer_);
    for (std::size_t i = 0; i < losses.size(); ++i) {
      const double kl = losses[i].kl.mean();
      // Rounding may leave a little less than nothing; what is not finite could not be worse.
      candidates[i].kl = std::isfinite(kl) ? std::max(0.0, kl) : std::numeric_limits<double>::max();
    }
  }

  Graph quantized(const Graph& block, const Candidate& candidate) const {
    constexpr Scheme kStatic{WeightType::kInt8, 0, DType::kF32, ActivationType::kStatic};
    Recipe alone{.calibration = recipe_.calibration};
    Statistics statistics;
    for (const std::string& module : candidate.input->modules) {
      alone.rules.push_back({.match = module, .prefill = kStatic});
      statistics[module] = statistics_.at(module);
      statistics[module].shadow = candidate.shadow;
    }
    MemorySink sink;
    LinearQuantizer quantizer(alone, statistics, sink);
    PassContext context{pool_, silent()};
    return quantizer.prefill(block, context);
  }

  const Recipe& recipe_;
  Statistics& statistics_;
  ThreadPool& pool_;
  Observer& observer_;
  CalibrationWindows windows_;
  VariantSweep sweep_;
  // In bytes.
  std::int64_t budget_ = 0;
  // That have options.
  std::vector<Input> inputs_;
};

}  // namespace

void choose_shadows(const ShadowContext& context,
                    std::map<std::string, InputStatistics>& statistics, ThreadPool& pool,
                    Observer& observer) {
  const ShadowSettings& settings = context.recipe.calibration.shadow;
  if (settings.budget > 0) BudgetSearch(context, statistics, pool, observer).run();
  if (settings.threshold > 0)
    for (auto& [module, input] : statistics) input.shadow = by_threshold(input, settings.threshold);
}

ShadowCount count_shadows(const Graph& graph) {
  ShadowCount count;
  for (const Node& node : graph.nodes()) {
    if (node.op != Op::kShadowLinear) continue;
    const auto& shadow = node.as<ShadowLinearAttributes>();
    ++count.modules;
    count.channels += shadow.channels.elements();
    count.bytes += static_cast<std::int64_t>(shadow.weight.bytes().size());
  }
  return count;
}

}  // namespace tandem
