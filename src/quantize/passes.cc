// The table of passes.
#include "quantize/passes.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "base/printable.h"
#include "quantize/awq.h"

namespace tandem {
namespace {

// Makes settings of a step's JSON; what is wrong with it is left in `objection`.
AwqSettings read_awq(const Json& json, std::string& objection) {
  AwqSettings settings;
  for (const auto& [key, value] : json.items()) {
    if (key == "search_tokens") {
      constexpr double kMost = std::int64_t{1} << 30;
      if (value.is_number_integer() && value.get<double>() >= 0 && value.get<double>() <= kMost) {
        settings.search_tokens = value.get<std::int64_t>();
        continue;
      }
      objection = fmt::format("search_tokens: expected an integer in [0, {}]", kMost);
    } else if (key == "clip" && value.is_boolean()) {
      settings.clip = value.get<bool>();
      continue;
    } else if (key == "clip") {
      objection = "clip: expected true or false";
    } else if (key == "compat") {
      settings.quark = value == "quark";
      if (settings.quark) continue;
      objection = "compat: expected \"quark\"";
    } else {
      objection = fmt::format("awq has the settings search_tokens, clip and compat, got \"{}\"",
                              printable(key));
      return settings;
    }
    objection += fmt::format(", got {}", printable(value.dump()));
    return settings;
  }
  return settings;
}

Graph awq(const Graph& graph, const Json& json, const Recipe& recipe,
          const CalibrationWindows& windows, PassContext& context) {
  std::string objection;
  const AwqSettings settings = read_awq(json, objection);
  const AwqResult result =
      search_awq(graph, recipe, settings, windows, context.pool, context.observer);
  return apply_awq(graph, recipe, settings, result);
}

struct Structural {
  std::string_view name;
  Graph (*run)(const Graph&);
};

constexpr std::array kStructural = {Structural{"fold_norms", fold_norms},
                                    Structural{"untie_head", untie_head}};
constexpr std::string_view kAwq = "awq";

}  // namespace

std::string objection_to_pass(const PassStep& step) {
  std::string objection;
  if (step.name == kAwq) {
    read_awq(step.settings, objection);
    return objection;
  }
  if (std::ranges::find(kStructural, step.name, &Structural::name) == kStructural.end()) {
    std::string known;
    for (const Structural& pass : kStructural) known += fmt::format("{}, ", pass.name);
    return fmt::format("expected a pass, one of {}{}, got \"{}\"", known, kAwq,
                       printable(step.name));
  }
  if (!step.settings.empty())
    return fmt::format("{} has no settings, got \"{}\"", step.name,
                       printable(step.settings.begin().key()));
  return {};
}

bool needs_text(const PassStep& step) { return step.name == kAwq; }

Pass make_pass(const PassStep& step, const Recipe& recipe, const CalibrationWindows* windows) {
  if (const std::string objection = objection_to_pass(step); !objection.empty())
    fail(ErrorCode::kInvalidArgument, "[recipe] {}", objection);
  if (needs_text(step)) {
    if (windows == nullptr)
      fail(ErrorCode::kInvalidArgument, "[recipe] {} learns from a text: expected one", step.name);
    return {step.name,
            [&recipe, windows, json = step.settings](const Graph& graph, PassContext& context) {
              return awq(graph, json, recipe, *windows, context);
            }};
  }
  const auto* entry = std::ranges::find(kStructural, step.name, &Structural::name);
  return {step.name, [run = entry->run](const Graph& graph, PassContext&) { return run(graph); }};
}

}  // namespace tandem
