// Which forms follow from codes.
#include "quantize/kept_codes.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "base/error.h"
#include "quantize/passes.h"
#include "quantize/scaling_groups.h"

namespace tandem {
namespace {

bool has_form(const Weight& weight, const Scheme& scheme) {
  const auto* groups = std::get_if<GroupCodes>(&weight);
  if (groups == nullptr) return scheme.weights == WeightType::kInt8 && scheme.group <= 0;
  const std::int64_t group = scheme.group > 0 ? scheme.group : groups->k;
  return scheme.activations == ActivationType::kFloat && bits_of(scheme.weights) == groups->bits &&
         group == groups->group && scheme.group != kWholeTensor;
}

std::string name_of(const Scheme& scheme) {
  if (scheme.group == kWholeTensor)
    return fmt::format("{} with one scale for all rows", to_string(scheme.weights));
  if (scheme.group == 0) return fmt::format("{} with one scale per row", to_string(scheme.weights));
  return fmt::format("{} in groups of {}", to_string(scheme.weights), scheme.group);
}

// "4-bit codes" and "group 128".
std::pair<std::string, std::string> kind_of(const Weight& weight) {
  if (const auto* groups = std::get_if<GroupCodes>(&weight))
    return {fmt::format("{}-bit codes", groups->bits), fmt::format("group {}", groups->group)};
  const auto& channels = std::get<ChannelCodes>(weight);
  return {"int8 codes", channels.scales.elements() == 1 ? "one scale each" : "one scale per row"};
}

const Weight& weight_of(const Node& linear) { return linear.as<LinearAttributes>().weight; }

[[noreturn]] void reject(const Node& linear, const Scheme& scheme, const char* phase) {
  fail(
      ErrorCode::kInvalidArgument,
      "[quantize] {}: is {} in the checkpoint already, of which the recipe's {} for {} can't be "
      "made without loss: expected a rule that keeps the codes (\"keep_codes\": true, or --exclude "
      "\"{}\")",
      linear.name, describe(weight_of(linear)), name_of(scheme), phase, linear.name);
}

}  // namespace

bool is_quantized(const Node& linear) {
  return !std::holds_alternative<FloatWeight>(weight_of(linear));
}

ModulePlan plan_of(const Recipe& recipe, const Node& linear) {
  ModulePlan plan = resolve(recipe, linear.name, is_quantized(linear));
  if (!is_quantized(linear)) return plan;
  const Weight& weight = weight_of(linear);
  if (plan.decode.weights != WeightType::kFloat && !has_form(weight, plan.decode))
    reject(linear, plan.decode, "decode");
  plan.decode = {};
  // Int8 codes read int8 inputs already.
  const bool is_int8 = std::holds_alternative<ChannelCodes>(weight);
  const bool keeps = plan.prefill.weights == WeightType::kFloat || has_form(weight, plan.prefill);
  if (!keeps && plan.prefill.activations == ActivationType::kFloat)
    reject(linear, plan.prefill, "prefill");
  if (keeps || is_int8) plan.prefill = {};
  return plan;
}

void require_float_weights(const Recipe& recipe, const Graph& graph) {
  const auto quantized = std::ranges::find_if(
      graph.nodes(), [](const Node& node) { return node.op == Op::kLinear && is_quantized(node); });
  const auto step = std::ranges::find_if(recipe.passes, needs_text);
  if (quantized == graph.nodes().end() || step == recipe.passes.end()) return;
  if (!find_scaling_groups(graph).empty()) return;
  fail(ErrorCode::kInvalidArgument,
       "[quantize] {}: changes float weights, but {} is {} in the checkpoint already, and there "
       "are no others: leave the pass out",
       step->name, quantized->name, describe(weight_of(*quantized)));
}

std::int64_t report_kept(const Graph& graph, Observer& observer) {
  std::map<std::pair<std::string, std::string>, int> kinds;
  std::int64_t kept = 0;
  for (const Node& node : graph.nodes()) {
    if (node.op != Op::kLinear || !is_quantized(node)) continue;
    ++kinds[kind_of(weight_of(node))];
    ++kept;
  }
  for (const auto& [kind, count] : kinds)
    observer.inform(fmt::format("[quantize] kept {} of {} module{}, {}", kind.first, count,
                                count == 1 ? "" : "s", kind.second));
  return kept;
}

}  // namespace tandem
