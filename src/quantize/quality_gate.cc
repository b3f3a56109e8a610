// Measure, choose, measure again: losses of single Linears add up only roughly.
#include "quantize/quality_gate.h"

#include <algorithm>

#include "quantize/kept_codes.h"

namespace tandem {
namespace {

using Phase = Scheme ModulePlan::*;

// A repair aims a little below the limit, which spares rounds that add one form each.
constexpr double kMargin = 0.95;

bool has_other_prefill(const Graph& graph, const Recipe& recipe) {
  return std::ranges::any_of(graph.nodes(), [&](const Node& node) {
    if (node.op != Op::kLinear) return false;
    const ModulePlan plan = plan_of(recipe, node);
    return plan.decode != plan.prefill;
  });
}

class Gate {
 public:
  Gate(const GateOptions& options, const GateModel& model, const CalibrationWindows& windows,
       Recipe& recipe, LinearQuantizer& quantizer, ThreadPool& pool, Observer& observer)
      : options_(options),
        model_(model),
        original_(recipe),
        recipe_(recipe),
        quantizer_(quantizer),
        pool_(pool),
        observer_(observer),
        whole_(model.graph, model.loaded, original_, model.statistics, windows, pool),
        has_prefill_(model.has_prefill && has_other_prefill(model.graph, recipe)) {
    report_.max_kl = options.max_kl;
    report_.max_share = options.max_share;
    report_.windows = windows.tokens() / windows.window;
    report_.window_tokens = windows.window;
    ranking_ = some_of(windows, options.ranking_windows);
  }

  GateReport run() {
    measure();
    report_.decode_before = report_.decode;
    report_.prefill_before = report_.prefill;
    if (report_.passed() && !options_.ranks_always) return std::move(report_);
    Doctor doctor(model_.graph, model_.loaded, original_, model_.statistics, ranking_, pool_);
    report_.slots = doctor.slots(has_prefill_, observer_);
    report_.ranking_windows = ranking_.tokens() / ranking_.window;
    report_.bytes = recipe_bytes(report_.slots);
    const auto budget = static_cast<std::int64_t>(static_cast<double>(report_.bytes) *
                                                  options_.max_size_increase_percent / 100);
    if (!report_.passed()) doctor.add_alternatives(report_.slots, model_.only_float, observer_);
    while (!report_.passed() && repair(budget)) measure();
    report_.added_bytes = added_bytes(report_.slots);
    return std::move(report_);
  }

 private:
  GateReport::Loss loss_in(Phase phase) {
    const VariantLoss loss = whole_.whole(quantizer_, phase, observer_);
    return {loss.kl.mean(), loss.kl.error(), loss.agreement};
  }

  void measure() {
    report_.decode = loss_in(&ModulePlan::decode);
    if (has_prefill_) report_.prefill = loss_in(&ModulePlan::prefill);
  }

  double sum_in(Phase phase) const {
    double sum = 0;
    for (const Slot& slot : report_.slots)
      if (is_in(slot.phase, phase)) sum += slot.form().kl;
    return sum;
  }

  // Whether the phase, once repaired as chosen, is expected to keep to the limit: what was measured,
  // less the share that was bought back of what single Linears lose.
  bool is_enough(Phase phase, const GateReport::Loss& measured, double limit, double sum) const {
    if (measured.kl <= limit) return true;
    return sum > 0 && measured.kl * sum_in(phase) / sum <= kMargin * limit;
  }

  bool repair(std::int64_t budget) {
    const double decode = sum_in(&ModulePlan::decode), prefill = sum_in(&ModulePlan::prefill);
    const auto is_decode_enough = [&] {
      return is_enough(&ModulePlan::decode, report_.decode, report_.limit(report_.decode_before),
                       decode);
    };
    const auto is_prefill_enough = [&] {
      return !report_.prefill || !report_.prefill_before ||
             is_enough(&ModulePlan::prefill, *report_.prefill,
                       report_.limit(*report_.prefill_before), prefill);
    };
    const auto counts = [&](const Slot& slot) {
      return (is_in(slot.phase, &ModulePlan::decode) && !is_decode_enough()) ||
             (is_in(slot.phase, &ModulePlan::prefill) && !is_prefill_enough());
    };
    const bool any = choose_forms(report_.slots, budget, counts,
                                  [&] { return is_decode_enough() && is_prefill_enough(); });
    recipe_.rules = original_.rules;
    for (Rule& rule : rules_of(report_.slots)) recipe_.rules.push_back(std::move(rule));
    return any;
  }

  const GateOptions& options_;
  const GateModel& model_;
  const Recipe original_;
  Recipe& recipe_;
  LinearQuantizer& quantizer_;
  ThreadPool& pool_;
  Observer& observer_;
  Doctor whole_;
  CalibrationWindows ranking_;
  bool has_prefill_;
  GateReport report_;
};

}  // namespace

GateReport pass_gate(const GateOptions& options, const GateModel& model,
                     const CalibrationWindows& windows, Recipe& recipe, LinearQuantizer& quantizer,
                     ThreadPool& pool, Observer& observer) {
  return Gate(options, model, windows, recipe, quantizer, pool, observer).run();
}

}  // namespace tandem
