// Evaluating a recipe: which rules apply to which module.
#include "quantize/recipe.h"

#include <algorithm>

#include "base/error.h"
#include "base/printable.h"
#include "quantize/module_match.h"

namespace tandem {

Recipe default_recipe(std::int64_t group, std::int64_t head_group) {
  Rule all{.match = "*", .keep_codes = true};
  all.decode = Scheme{WeightType::kUint4, group};
  all.prefill = Scheme{WeightType::kInt8, 0, DType::kF32, ActivationType::kStatic};
  Rule head{.match = "lm_head", .prefill_as_decode = true, .keep_codes = true};
  head.decode = head_group > 0 ? Scheme{WeightType::kUint4, head_group} : Scheme{};
  Recipe recipe;
  recipe.rules = {all, head};
  return recipe;
}

Rule exclude(std::string match) {
  Rule rule{.match = std::move(match), .prefill_as_decode = true};
  rule.decode = Scheme{};
  return rule;
}

void check_match(const std::string& match) { ModuleMatch{match}; }

ModulePlan resolve(const Recipe& recipe, const std::string& module, bool is_quantized) {
  ModulePlan plan;
  bool as_decode = true;
  for (const Rule& rule : recipe.rules) {
    if (!ModuleMatch(rule.match).matches(module)) continue;
    if (rule.decode) plan.decode = is_quantized && rule.keep_codes ? Scheme{} : *rule.decode;
    if (rule.prefill) plan.prefill = *rule.prefill;
    if (rule.prefill || rule.prefill_as_decode) as_decode = rule.prefill_as_decode;
  }
  if (as_decode) plan.prefill = plan.decode;
  return plan;
}

void check_matches(const Recipe& recipe, const std::vector<std::string>& modules) {
  for (const Rule& rule : recipe.rules) {
    ModuleMatch matcher(rule.match);
    const bool used = std::ranges::any_of(
        modules, [&](const std::string& module) { return matcher.matches(module); });
    if (!used)
      fail(ErrorCode::kInvalidArgument,
           "[recipe] \"{}\" matches no module; modules are named like \"{}\"",
           printable(rule.match), modules.empty() ? "" : modules.front());
  }
}

}  // namespace tandem
