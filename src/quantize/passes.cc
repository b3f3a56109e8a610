// The table of structural passes.
#include "quantize/passes.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/printable.h"

namespace tandem {
namespace {

struct Entry {
  std::string_view name;
  Graph (*run)(const Graph&);
};

constexpr std::array kPasses = {Entry{"fold_norms", fold_norms}, Entry{"untie_head", untie_head}};

}  // namespace

std::string objection_to_pass(const PassStep& step) {
  if (std::ranges::find(kPasses, step.name, &Entry::name) == kPasses.end()) {
    std::string known;
    for (const Entry& entry : kPasses)
      known += fmt::format("{}{}", known.empty() ? "" : ", ", entry.name);
    return fmt::format("expected a pass, one of {}, got \"{}\"", known, printable(step.name));
  }
  if (!step.settings.empty())
    return fmt::format("{} has no settings, got \"{}\"", step.name,
                       printable(step.settings.begin().key()));
  return {};
}

Pass make_pass(const PassStep& step) {
  if (const std::string objection = objection_to_pass(step); !objection.empty())
    fail(ErrorCode::kInvalidArgument, "[recipe] {}", objection);
  const auto* entry = std::ranges::find(kPasses, step.name, &Entry::name);
  return {step.name, [run = entry->run](const Graph& graph, PassContext&) { return run(graph); }};
}

}  // namespace tandem
