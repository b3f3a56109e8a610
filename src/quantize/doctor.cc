// One sweep measures many forms; choosing is arithmetic on what was measured.
#include "quantize/doctor.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/error.h"
#include "graph/ops.h"
#include "quantize/kept_codes.h"

namespace tandem {
namespace {

constexpr Scheme kFinerGroups{WeightType::kUint4, 32};
constexpr Scheme kDynamicInt8{WeightType::kInt8, 0, DType::kF32, ActivationType::kDynamic};
// Share of all loss that alternatives are measured for.
constexpr double kWorthwhile = 0.9;

double gain(const Slot& slot, std::size_t option) { return slot.form().kl - slot.forms[option].kl; }

std::int64_t growth(const Form& before, const Form& after) {
  return std::max<std::int64_t>(0, after.bytes - before.bytes);
}

}  // namespace

std::string_view to_string(SlotPhase phase) noexcept {
  if (phase == SlotPhase::kBoth) return "both";
  return phase == SlotPhase::kDecode ? "decode" : "prefill";
}

bool is_in(SlotPhase slot, Scheme ModulePlan::* phase) {
  return slot == SlotPhase::kBoth || (slot == SlotPhase::kDecode) == (phase == &ModulePlan::decode);
}

std::string describe(const Scheme& scheme) {
  if (scheme.weights == WeightType::kFloat) return "float";
  std::string text(to_string(scheme.weights));
  if (scheme.activations != ActivationType::kFloat)
    return text + (scheme.group > 0 ? fmt::format(" block {} ", scheme.group) : " ") +
           std::string(to_string(scheme.activations));
  return text + (scheme.group > 0               ? fmt::format(" g{}", scheme.group)
                 : scheme.group == kWholeTensor ? " tensor"
                                                : " row");
}

std::int64_t recipe_bytes(std::span<const Slot> slots) {
  std::int64_t bytes = 0;
  for (const Slot& slot : slots)
    bytes += slot.forms.front().bytes * (slot.phase == SlotPhase::kBoth ? 2 : 1);
  return bytes;
}

std::int64_t added_bytes(std::span<const Slot> slots) {
  std::int64_t bytes = 0;
  for (const Slot& slot : slots)
    bytes += growth(slot.forms.front(), slot.form()) * (slot.phase == SlotPhase::kBoth ? 2 : 1);
  return bytes;
}

bool choose_forms(std::span<Slot> slots, std::int64_t budget,
                  const std::function<bool(const Slot&)>& counts,
                  const std::function<bool()>& enough) {
  bool any = false;
  while (!any || !enough()) {
    Slot* best = nullptr;
    std::size_t best_form = 0;
    double best_worth = 0;
    for (Slot& slot : slots) {
      if (!counts(slot)) continue;
      const std::size_t now = slot.chosen;
      for (std::size_t form = 0; form < slot.forms.size(); ++form) {
        // What is free counts as one byte, so that of two free ones the better is chosen.
        const double worth = gain(slot, form) / static_cast<double>(std::max<std::int64_t>(
                                                    1, growth(slot.form(), slot.forms[form])));
        if (worth <= best_worth) continue;
        slot.chosen = form;
        const bool fits = added_bytes(slots) <= budget;
        slot.chosen = now;
        if (!fits) continue;
        best = &slot;
        best_form = form;
        best_worth = worth;
      }
    }
    if (best == nullptr) return any;
    best->chosen = best_form;
    any = true;
  }
  return any;
}

std::vector<Rule> rules_of(std::span<const Slot> slots) {
  std::vector<Rule> rules;
  for (const Slot& slot : slots) {
    if (slot.chosen == 0) continue;
    Rule rule{.match = slot.module};
    const Scheme& scheme = slot.form().scheme;
    if (slot.phase == SlotPhase::kPrefill) {
      rule.prefill = scheme;
    } else {
      rule.decode = scheme;
      rule.prefill_as_decode = slot.phase == SlotPhase::kBoth;
    }
    rules.push_back(std::move(rule));
  }
  return rules;
}

Doctor::Doctor(const Graph& graph, const Graph& reference, const Recipe& recipe,
               const std::map<std::string, InputStatistics>& statistics,
               const CalibrationWindows& windows, ThreadPool& pool)
    : graph_(graph),
      recipe_(recipe),
      statistics_(statistics),
      pool_(pool),
      sweep_(graph, reference, windows, pool) {}

VariantLoss Doctor::whole(LinearQuantizer& quantizer, Scheme ModulePlan::* phase,
                          Observer& observer) {
  const auto rewrite = [&](const Graph& block) {
    PassContext context{pool_, silent()};
    return phase == &ModulePlan::decode ? quantizer.decode(block, context)
                                        : quantizer.prefill(block, context);
  };
  const Variant variant{0, sweep_.blocks() - 1, rewrite};
  const char* task = phase == &ModulePlan::decode ? "measure decode" : "measure prefill";
  return std::move(sweep_.run({&variant, 1}, task, observer).front());
}

const Node& Doctor::node_of(const std::string& module) const {
  const auto node = std::ranges::find_if(graph_.nodes(), [&](const Node& each) {
    return each.op == Op::kLinear && each.name == module;
  });
  if (node == graph_.nodes().end())
    fail(ErrorCode::kInternal, "[doctor] {}: no Linear of this name", module);
  return *node;
}

Variant Doctor::alone(const Key& key) {
  const int block = sweep_.block_of(key.module);
  const auto rewrite = [this, key](const Graph& part) {
    // Prefill, since codes that a checkpoint has already are kept in decode.
    const Recipe recipe{.rules = {{.match = key.module, .prefill = key.scheme}},
                        .calibration = recipe_.calibration};
    MemorySink sink;
    LinearQuantizer quantizer(recipe, statistics_, sink);
    PassContext context{pool_, silent()};
    return quantizer.prefill(part, context);
  };
  return {block, block, rewrite, key.module};
}

Form Doctor::known(const Key& key) const {
  const std::int64_t bytes = bytes_in(node_of(key.module), key.scheme);
  if (key.scheme.weights == WeightType::kFloat)
    return {.scheme = key.scheme, .sqnr = std::numeric_limits<double>::infinity(), .bytes = bytes};
  if (const auto forms = measured_.find(key.module); forms != measured_.end())
    for (const Form& form : forms->second)
      if (form.scheme == key.scheme) return form;
  return {.scheme = key.scheme, .kl = -1, .bytes = bytes};
}

void Doctor::measure(const std::vector<Key>& wanted, std::string_view task, Observer& observer) {
  std::vector<Key> unknown;
  for (const Key& key : wanted) {
    const bool is_listed = std::ranges::any_of(unknown, [&](const Key& other) {
      return other.module == key.module && other.scheme == key.scheme;
    });
    if (!is_listed && known(key).kl < 0) unknown.push_back(key);
  }
  if (unknown.empty()) return;
  std::vector<Variant> variants;
  for (const Key& key : unknown) variants.push_back(alone(key));
  const std::vector<VariantLoss> losses = sweep_.run(variants, task, observer);
  for (std::size_t i = 0; i < unknown.size(); ++i) {
    Form form = known(unknown[i]);
    const double kl = losses[i].kl.mean();
    // Rounding may leave a little less than nothing; what is not finite could not be worse.
    form.kl = std::isfinite(kl) ? std::max(0.0, kl) : std::numeric_limits<double>::infinity();
    form.kl_error = losses[i].kl.error();
    form.sqnr = losses[i].sqnr;
    measured_[unknown[i].module].push_back(form);
  }
}

std::vector<Slot> Doctor::slots(bool with_prefill, Observer& observer) {
  std::vector<Slot> slots;
  std::vector<Key> keys;
  const auto add = [&](const Node& node, SlotPhase phase, const Scheme& scheme) {
    if (scheme.weights == WeightType::kFloat) return;
    slots.push_back({node.name, phase, {}});
    keys.push_back({node.name, scheme});
  };
  for (const Node& node : graph_.nodes()) {
    if (node.op != Op::kLinear) continue;
    const ModulePlan plan = plan_of(recipe_, node);
    const bool is_shared = with_prefill && plan.decode == plan.prefill;
    add(node, is_shared ? SlotPhase::kBoth : SlotPhase::kDecode, plan.decode);
    if (with_prefill && !is_shared) add(node, SlotPhase::kPrefill, plan.prefill);
  }
  measure(keys, "layer by layer", observer);
  for (std::size_t i = 0; i < slots.size(); ++i) slots[i].forms.push_back(known(keys[i]));
  return slots;
}

void Doctor::add_alternatives(std::vector<Slot>& slots, bool only_float, Observer& observer) {
  std::vector<Slot*> by_loss;
  double total = 0;
  for (Slot& slot : slots) {
    by_loss.push_back(&slot);
    total += slot.form().kl;
  }
  std::ranges::sort(by_loss, [](const Slot* a, const Slot* b) {
    return a->form().kl != b->form().kl ? a->form().kl > b->form().kl : a < b;
  });
  std::vector<std::pair<Slot*, Key>> options;
  double covered = 0;
  for (Slot* slot : by_loss) {
    options.push_back({slot, {slot->module, Scheme{}}});
    const bool is_worthwhile = covered < kWorthwhile * total;
    covered += slot->form().kl;
    if (only_float || !is_worthwhile) continue;
    const Node& node = node_of(slot->module);
    const Scheme now = slot->form().scheme;
    const std::int64_t k = input_channels(node.as<LinearAttributes>().weight);
    if (slot->phase == SlotPhase::kPrefill)
      options.push_back({slot, {slot->module, plan_of(recipe_, node).decode}});
    else if (now.weights == WeightType::kUint4 && now.group != 32 && k % 32 == 0)
      options.push_back({slot, {slot->module, kFinerGroups}});
    if (k <= kMaxInt8K) options.push_back({slot, {slot->module, kDynamicInt8}});
  }
  std::vector<Key> keys;
  for (const auto& [slot, key] : options) keys.push_back(key);
  measure(keys, "try other forms", observer);
  for (const auto& [slot, key] : options)
    if (key.scheme != slot->forms.front().scheme) slot->forms.push_back(known(key));
}

}  // namespace tandem
